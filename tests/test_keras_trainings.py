"""Sequential agrees with Keras: 40 trainings that data/record_keras_trainings.py recorded, compared epoch by epoch."""

import json
from pathlib import Path

import numpy as np
import pytest

from numba_rnnlm import Sequential, layers, optimizers

FILE = Path(__file__).parent / "data" / "keras_trainings.npz"
CASES = range(40)
LOSS, WEIGHT = 1e-5, 1e-4  # maximum errors: of a loss, relative; of a weight, relative to the largest of its array


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def trained(case, backend, x, y, start):
    built = []
    for kind, options in case["layers"]:
        given = list(options.values()) if kind == "Embedding" else [options.pop("units")]
        built.append(getattr(layers, kind)(*given, **({} if kind == "Embedding" else options)))
    model = Sequential(built, backend=backend)
    model.compile(getattr(optimizers, case["optimizer"])(**case["options"]), case["loss"], ["accuracy"])
    if x.ndim == 3:
        model.build((None, *x.shape[1:]))
    shapes = [array.shape for array in model.get_weights()]
    model.set_weights([part.reshape(shape) for part, shape in zip(np.split(start, np.cumsum([*map(np.prod, shapes)])[:-1]), shapes, strict=True)])
    history = model.fit(x, y, batch_size=case["batch_size"], epochs=case["epochs"], shuffle=False, verbose=0)
    return history.history, model.get_weights()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("number", CASES)
def test_a_training_agrees_with_keras(golden, number, backend):
    its = {key.removeprefix(f"{number}/"): array for key, array in golden.items() if key.startswith(f"{number}/")}
    history, weights = trained(json.loads(str(its["case"])), backend, its["x"], its["y"], its["start"])
    np.testing.assert_allclose(history["loss"], its["losses"], rtol=LOSS)
    np.testing.assert_allclose(history["accuracy"], its["accuracy"], rtol=1e-6)
    end = its["end"]
    for ours in weights:
        theirs, end = end[: ours.size].reshape(ours.shape), end[ours.size :]
        assert abs(ours - theirs).max() <= WEIGHT * abs(theirs).max()
