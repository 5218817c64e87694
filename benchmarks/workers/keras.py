"""The worker for Keras on TensorFlow."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import tensorflow

from benchmarks.harness import serve
from benchmarks.workers import data
from numba_rnnlm.formats.keras import to_keras
from numba_rnnlm.network import Graph


class Listing:
    """``train_on_batch``: what ``fit`` does for a batch, without its input queue."""

    def __init__(self, backend: str) -> None:
        size = data.LISTING
        self.model = keras.Sequential([
            keras.layers.Embedding(size["vocabulary"], size["embedding"]),
            keras.layers.LSTM(size["first"], return_sequences=True),
            keras.layers.LSTM(size["second"]),
            keras.layers.Dense(size["vocabulary"], activation="softmax"),
        ])
        # Adam's epsilon is 1e-7 here and in numba_rnnlm, 1e-8 in PyTorch; the first losses still agree.
        self.model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
        self.model.build((None, size["steps"]))
        ours = Graph(data.listing())
        weights = data.weights(ours.layout)
        for theirs, name, layer in zip(self.model.layers, ours.names, ours.layers, strict=True):
            theirs.set_weights(to_keras(layer, {key: weights[f"{name}/{key}"] for key in layer.parameters((1, 1, 1))}))
        self.inputs, self.targets = (tensorflow.constant(array) for array in data.examples())
        self.figures = {f"loss of step {number}": self.step() for number in range(3)}

    def step(self) -> float:
        return float(self.model.train_on_batch(self.inputs, self.targets))

    def wait(self) -> None:
        pass


if __name__ == "__main__":
    threads = int(os.environ["OMP_NUM_THREADS"])
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    serve({"listing": Listing})
