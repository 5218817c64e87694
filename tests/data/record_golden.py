"""Record golden_pytorch.npz and golden_keras.npz next to this file: float64 results of two other frameworks.

Run by hand, with torch, keras and tensorflow installed::

    python tests/data/record_golden.py

Keys of both files, for each cell (tanh, relu, lstm, gru); the weights have the framework's names and layout::

    about                   versions, as strings
    CELL/x                  (T, N, D)    input
    CELL/initial            (S, N, H)    initial states: h, or h and c
    CELL/WEIGHT
    CELL/y, CELL/final      (T, N, H), (S, N, H)
    CELL/dy, CELL/dfinal    random gradients of y and final
    CELL/grad/KEY           gradient of sum(y * dy) + sum(final * dfinal) with respect to x, initial, each WEIGHT

golden_pytorch.npz also has optimisers::

    optimizer/start, optimizer/gradients    (P), (steps, P)
    optimizer/NAME/p                        (steps, P)    the weights after each step
    optimizer/NAME/hyper/KEY                the optimiser's hyperparameters, with PyTorch's names

golden_keras.npz also has a whole model, before and after one step of Adam on one batch::

    model/ids, model/targets    (N, T) int32, (N, V) one-hot
    model/weights/0, …          in the order of get_weights()
    model/predictions           (N, V)
    model/loss                  ()    mean categorical cross-entropy
    model/updated/0, …          the weights after the step
    model/adam/KEY              learning_rate, beta_1, beta_2, epsilon
"""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"  # must be set before Keras is imported; the gradients below use TensorFlow

import keras
import numpy as np
import tensorflow as tf
import torch

SEED = 20
STEPS, STREAMS, INPUTS, HIDDEN = 5, 3, 4, 6  # T, N, D, H

Record = dict[str, np.ndarray]


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers, rounded to multiples of 1/64, which are exact in float32 and compress well."""
    return np.round(rng.normal(0, 0.5, shape) * 64) / 64


def draw_case(rng: np.random.Generator, states: int) -> Record:
    return {
        "x": draw(rng, STEPS, STREAMS, INPUTS),
        "initial": draw(rng, states, STREAMS, HIDDEN),
        "dy": draw(rng, STEPS, STREAMS, HIDDEN),
        "dfinal": draw(rng, states, STREAMS, HIDDEN),
    }


def prefixed(prefix: str, record: Record) -> Record:
    return {f"{prefix}/{key}": value for key, value in record.items()}


def pytorch_layer(rng: np.random.Generator, layer: torch.nn.RNNBase, states: int) -> Record:
    weights = {name: draw(rng, *weight.shape) for name, weight in layer.named_parameters()}
    layer.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})
    case = draw_case(rng, states)
    x, initial = (torch.tensor(case[key], requires_grad=True) for key in ("x", "initial"))
    if states == 1:
        y, final = layer(x, initial)
    else:
        y, pair = layer(x, tuple(initial[:, None]))
        final = torch.cat(pair)
    ((y * torch.tensor(case["dy"])).sum() + (final * torch.tensor(case["dfinal"])).sum()).backward()
    gradients = {"x": x.grad, "initial": initial.grad, **{name: w.grad for name, w in layer.named_parameters()}}
    return {
        **weights,
        **case,
        "y": y.detach().numpy(),
        "final": final.detach().numpy(),
        **prefixed("grad", {name: gradient.numpy() for name, gradient in gradients.items()}),
    }


def pytorch_optimizers(rng: np.random.Generator) -> Record:
    start, gradients = draw(rng, 7), draw(rng, 5, 7)
    record = {"start": start, "gradients": gradients}
    p = torch.tensor(start, requires_grad=True)
    for name, optimizer in {
        "sgd": torch.optim.SGD([p], lr=0.1),
        "momentum": torch.optim.SGD([p], lr=0.1, momentum=0.9),
        "rmsprop": torch.optim.RMSprop([p], lr=0.1, alpha=0.9, eps=1e-7),
        "adagrad": torch.optim.Adagrad([p], lr=0.1),
        "adam": torch.optim.Adam([p], lr=0.1),
        "adam_l2": torch.optim.Adam([p], lr=0.1, weight_decay=0.2),
        "adamw": torch.optim.AdamW([p], lr=0.1, weight_decay=0.2),
    }.items():
        p.data = torch.tensor(start)
        path = []
        for gradient in gradients:
            p.grad = torch.tensor(gradient)
            optimizer.step()
            path.append(p.detach().numpy().copy())
        numbers = {
            key: np.array(value, np.float64)
            for key, value in optimizer.defaults.items()
            if isinstance(value, int | float | tuple) and not isinstance(value, bool)
        }
        record |= prefixed(name, {"p": np.array(path), **prefixed("hyper", numbers)})
    return record


def record_pytorch() -> Record:
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(SEED)
    record = {"about": np.array([f"torch {torch.__version__}", f"numpy {np.__version__}"])}
    for name, layer, states in (
        ("tanh", torch.nn.RNN(INPUTS, HIDDEN, nonlinearity="tanh"), 1),
        ("relu", torch.nn.RNN(INPUTS, HIDDEN, nonlinearity="relu"), 1),
        ("lstm", torch.nn.LSTM(INPUTS, HIDDEN), 2),
        ("gru", torch.nn.GRU(INPUTS, HIDDEN), 1),
    ):
        record |= prefixed(name, pytorch_layer(rng, layer, states))
    return record | prefixed("optimizer", pytorch_optimizers(rng))


def keras_layer(rng: np.random.Generator, layer: keras.layers.RNN, states: int) -> Record:
    layer.build((STREAMS, STEPS, INPUTS))
    weights = {weight.name: draw(rng, *weight.shape) for weight in layer.weights}
    layer.set_weights(list(weights.values()))
    case = draw_case(rng, states)
    x, initial = tf.constant(case["x"]), tf.constant(case["initial"])
    with tf.GradientTape() as tape:
        tape.watch([x, initial])
        by_stream, *finals = layer(tf.transpose(x, (1, 0, 2)), initial_state=tf.unstack(initial))
        y, final = tf.transpose(by_stream, (1, 0, 2)), tf.stack(finals)
        total = tf.reduce_sum(y * case["dy"]) + tf.reduce_sum(final * case["dfinal"])
    sources = {"x": x, "initial": initial, **{weight.name: weight.value for weight in layer.weights}}
    gradients = tape.gradient(total, sources)
    return {
        **weights,
        **case,
        "y": y.numpy(),
        "final": final.numpy(),
        **prefixed("grad", {name: gradient.numpy() for name, gradient in gradients.items()}),
    }


def keras_model(rng: np.random.Generator) -> Record:
    vocabulary, streams, steps = 11, 3, 7
    model = keras.Sequential([
        keras.layers.Embedding(vocabulary, 5),
        keras.layers.LSTM(6, return_sequences=True),
        keras.layers.LSTM(4),
        keras.layers.Dense(vocabulary, activation="softmax"),
    ])
    model.build((streams, steps))
    weights = [draw(rng, *weight.shape) for weight in model.get_weights()]
    model.set_weights(weights)
    adam = keras.optimizers.Adam()
    model.compile(optimizer=adam, loss="categorical_crossentropy")
    ids = rng.integers(vocabulary, size=(streams, steps)).astype(np.int32)
    targets = np.eye(vocabulary)[rng.integers(vocabulary, size=streams)]
    predictions = model.predict_on_batch(ids)
    loss = model.train_on_batch(ids, targets)
    return {
        "ids": ids,
        "targets": targets,
        "predictions": predictions,
        "loss": np.array(loss),
        **{f"weights/{index}": weight for index, weight in enumerate(weights)},
        **{f"updated/{index}": weight for index, weight in enumerate(model.get_weights())},
        "adam/learning_rate": np.array(float(adam.learning_rate)),
        "adam/beta_1": np.array(float(adam.beta_1)),
        "adam/beta_2": np.array(float(adam.beta_2)),
        "adam/epsilon": np.array(float(adam.epsilon)),
    }


def record_keras() -> Record:
    keras.config.set_floatx("float64")
    rng = np.random.default_rng(SEED)
    options = {"return_sequences": True, "return_state": True}
    versions = [f"keras {keras.__version__}", f"tensorflow {tf.__version__}", f"numpy {np.__version__}"]
    record = {"about": np.array(versions)}
    for name, layer, states in (
        ("tanh", keras.layers.SimpleRNN(HIDDEN, activation="tanh", **options), 1),
        ("relu", keras.layers.SimpleRNN(HIDDEN, activation="relu", **options), 1),
        ("lstm", keras.layers.LSTM(HIDDEN, **options), 2),
        ("gru", keras.layers.GRU(HIDDEN, reset_after=True, **options), 1),
    ):
        record |= prefixed(name, keras_layer(rng, layer, states))
    return record | prefixed("model", keras_model(rng))


if __name__ == "__main__":
    folder = Path(__file__).parent
    np.savez_compressed(folder / "golden_pytorch.npz", **record_pytorch())
    np.savez_compressed(folder / "golden_keras.npz", **record_keras())
