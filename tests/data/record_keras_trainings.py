"""Record keras_trainings.npz next to this file: losses and final weights of 40 trainings with Keras.

Run by hand, with keras and torch installed::

    KERAS_BACKEND=torch python tests/data/record_keras_trainings.py

Keys::

    about                   versions, as strings
    N/case                  JSON: layers, optimizer, options, loss, epochs, batch_size, as drawn below
    N/x, N/y                examples
    N/start, N/end          initial and final weights: get_weights(), concatenated
    N/losses, N/accuracy    (epochs)
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

SEED = 31
EPOCHS = 5
Record = dict[str, np.ndarray]

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"learning_rate": 0.5}, {"learning_rate": 0.2, "momentum": 0.9}, {"learning_rate": 0.2, "momentum": 0.8, "nesterov": True},
            {"learning_rate": 0.5, "weight_decay": 0.02, "momentum": 0.5}, {"learning_rate": 1.0, "clipnorm": 0.05}],
    "RMSprop": [{}, {"learning_rate": 0.01, "rho": 0.8, "epsilon": 1e-3}, {"learning_rate": 0.01, "momentum": 0.7},
                {"learning_rate": 0.01, "centered": True, "momentum": 0.3}, {"learning_rate": 0.02, "weight_decay": 0.1, "clipnorm": 0.02}],
    "Adagrad": [{}, {"learning_rate": 0.2}, {"learning_rate": 0.1, "initial_accumulator_value": 0.01}, {"learning_rate": 0.1, "epsilon": 0.1},
                {"learning_rate": 0.2, "weight_decay": 0.05, "global_clipnorm": 0.05}],
    "Adam": [{}, {"learning_rate": 0.02, "clipnorm": 0.1}, {"learning_rate": 0.02, "amsgrad": True, "beta_2": 0.8},
             {"learning_rate": 0.02, "weight_decay": 0.1, "epsilon": 0.01}, {"learning_rate": 0.01, "global_clipnorm": 0.1, "beta_1": 0.5}],
    "AdamW": [{}, {"learning_rate": 0.02}, {"learning_rate": 0.02, "weight_decay": 0.2, "clipvalue": 0.01}, {"learning_rate": 0.01, "amsgrad": True},
              {"learning_rate": 0.01, "weight_decay": 0.0, "clipnorm": 0.01}],
    "Adadelta": [{}, {"learning_rate": 1.0}, {"learning_rate": 10.0, "rho": 0.8}, {"learning_rate": 5.0, "epsilon": 1e-4, "clipvalue": 0.01},
                 {"learning_rate": 5.0, "weight_decay": 0.01}],
    "Nadam": [{}, {"learning_rate": 0.02}, {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95}, {"learning_rate": 0.01, "epsilon": 0.01},
              {"learning_rate": 0.02, "weight_decay": 0.1, "global_clipnorm": 0.1}],
    "Lion": [{}, {"learning_rate": 0.005}, {"learning_rate": 0.005, "beta_1": 0.8, "beta_2": 0.9}, {"learning_rate": 0.002, "weight_decay": 1.0},
             {"learning_rate": 0.005, "clipnorm": 0.1}],
}
RECURRENT = ["LSTM", "GRU", "SimpleRNN"]
LOSSES = ["categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy", "binary_crossentropy"]


def draw(rng: np.random.Generator, number: int, optimizer: str, options: dict[str, Any]) -> tuple[dict[str, Any], Record]:
    """Draw a case and its examples."""
    steps, examples, symbols = int(rng.integers(3, 7)), int(rng.integers(9, 24)), int(rng.integers(4, 9))
    loss, sequences, ids = LOSSES[number % 4], bool(rng.integers(2)), bool(rng.integers(4))
    units = {"categorical": symbols, "sparse": symbols, "binary": [1, 3][number // 4 % 2]}[loss.split("_")[0]]
    layers: list[list[Any]] = [["Embedding", {"input_dim": symbols, "output_dim": int(rng.integers(2, 5))}]] if ids else []
    depth = int(rng.integers(1, 3))
    for layer in range(depth):
        kind = RECURRENT[(number + layer) % 3]
        more = {"activation": "relu"} if kind == "SimpleRNN" and rng.integers(2) else {}
        layers.append([kind, {"units": int(rng.integers(2, 6)), "return_sequences": sequences or layer < depth - 1, **more}])
    if rng.integers(2):
        layers.append(["Dense", {"units": 3, "activation": "tanh"}])
    layers.append(["Dense", {"units": units, "activation": "sigmoid" if loss.startswith("binary") else "softmax"}])
    x = rng.integers(0, symbols, (examples, steps)) if ids else np.round(rng.normal(0, 1, (examples, steps, 2)) * 64) / 64
    shape = (examples, steps) if sequences else (examples,)
    if loss.startswith("binary"):
        y = rng.integers(0, 2, (*shape, units)).astype(np.float32)
    else:
        y = rng.integers(0, symbols, shape)
        if loss.startswith("categorical"):
            y = np.eye(symbols, dtype=np.float32)[y]
    case = {"layers": layers, "optimizer": optimizer, "options": options, "loss": loss, "epochs": EPOCHS, "batch_size": int(rng.integers(3, 8))}
    return case, {"x": x, "y": y}


def train(case: dict[str, Any], examples: Record, rng: np.random.Generator) -> Record:
    """Draw initial weights and train; returns the weights before and after, and the losses."""
    model = keras.Sequential([getattr(keras.layers, kind)(**options) for kind, options in case["layers"]])
    optimizer = getattr(keras.optimizers, case["optimizer"])(**case["options"])
    model.compile(optimizer, case["loss"], metrics=["accuracy"])
    model.build(examples["x"].shape)
    start = [np.round(rng.normal(0, 0.5, array.shape) * 64) / 64 for array in model.get_weights()]
    model.set_weights(start)
    history = model.fit(**examples, batch_size=case["batch_size"], epochs=case["epochs"], shuffle=False, verbose=0).history
    found = {"losses": np.array(history["loss"], np.float32), "accuracy": np.array(history["accuracy"], np.float32)}
    return found | {"start": joined(start), "end": joined(model.get_weights())}


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float32)


def main() -> None:
    rng = np.random.default_rng(SEED)
    record: Record = {"about": np.array([f"keras {keras.__version__}", f"backend {keras.backend.backend()}", f"numpy {np.__version__}"])}
    cases = [(name, options) for index in range(5) for name, options in ((name, choices[index]) for name, choices in OPTIONS.items())]
    for number, (name, options) in enumerate(cases):
        case, examples = draw(rng, number, name, options)
        found: Record = {"case": np.array(json.dumps(case)), **examples, **train(case, examples, rng)}
        record |= {f"{number}/{key}": value for key, value in found.items()}
    np.savez_compressed(Path(__file__).parent / "keras_trainings.npz", **record)


if __name__ == "__main__":
    main()
