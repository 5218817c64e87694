"""A custom layer, made of the verbs that all backends have: a causal convolution of width 2, y[t] = x[t] W + x[t-1] V + b."""

from dataclasses import dataclass
from tempfile import TemporaryDirectory

from numba_rnnlm import LanguageModel, Sequential, layers


@dataclass(frozen=True)
class Convolution(layers.Layer):
    units: int

    def output(self, shape):
        steps, streams, _ = shape
        return steps, streams, self.units

    def parameters(self, shape):
        return {"W": (shape[-1], self.units), "V": (shape[-1], self.units), "b": (self.units,)}

    def initialize(self, shape, random):
        return {name: random.uniform(-0.1, 0.1, size) for name, size in self.parameters(shape).items()}

    def state(self, shape):  # what a segment leaves to the next one: the last x
        return {"last": shape[1:]}

    def activations(self, shape, training):  # what forward and backward write
        return {"before": shape, "y": self.output(shape), **({"dx": shape, "dbefore": shape} if training else {})}

    def forward(self, ops, run, x):
        before, y = run.a["before"], run.a["y"]
        ops.copy(run.m["last"], before[0])
        ops.copy(x[:-1], before[1:])
        ops.copy(x[-1], run.m["last"])
        ops.project(x, run.p["W"], run.p["b"], y)
        ops.project(before, run.p["V"], None, y, add=True)
        return y

    def backward(self, ops, run, x, dy):
        dx, dbefore = run.a["dx"], run.a["dbefore"]
        ops.project_backward(x, run.p["W"], dy, dx, run.g["W"], run.g["b"], add=run.adds(ops, "W", "b"))
        ops.project_backward(run.a["before"], run.p["V"], dy, dbefore, run.g["V"], None, add=run.adds(ops, "V"))
        ops.add(dbefore[1:], dx[:-1])
        return dx


layers.check(Convolution(5), verbose=True)  # as the tests of the library check its own layers

text = "how much wood would a woodchuck chuck if a woodchuck could chuck wood\n" * 20
ids = [ord(letter) % 32 for letter in text]
x, y = [ids[i : i + 6] for i in range(len(ids) - 6)], ids[6:]
model = Sequential([layers.Embedding(32, 8), Convolution(16), layers.GRU(16), layers.Dense(32, activation="softmax")], seed=1)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=20, verbose=0)
with TemporaryDirectory() as folder:
    model.save(path := f"{folder}/model.npz")
    loaded = Sequential.load(path, custom_objects={"Convolution": Convolution})
print(f"Sequential: accuracy {loaded.evaluate(x, y, verbose=0)[1]:.2f}")
model = LanguageModel(body=[Convolution(64), layers.GRU(64, return_sequences=True)], embedding=16, seed=1)
model.fit(text * 3, epochs=30, streams=8, steps=35, learning_rate=1e-2, verbose=0)
print(f"LanguageModel: perplexity {model.perplexity(text):.3f}\n  how" + model.generate("how", length=66, temperature=0))
