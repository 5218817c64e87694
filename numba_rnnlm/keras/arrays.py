"""Examples in Keras's layout, one per row, validated once and returned in batches with time as the first axis."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.ops import Shape
from ..errors import ShapeError, VocabularyError, as_array, shown
from ..layers import Layer


@dataclass(frozen=True)
class Examples:
    """Inputs and their targets.

    Attributes
    ----------
    x
        (examples, T) ids, or (examples, T, D) vectors.
    y
        Ids (examples) or (examples, T), or numbers (examples, units) or (examples, T, units).
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> "Examples":
        return Examples(self.x[rows], self.y[rows])

    def digest(self) -> str:
        """SHA-256 of shapes, types and values."""
        found = hashlib.sha256()
        for array in (self.x, self.y):
            found.update(f"{array.dtype.str} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def swap(array: np.ndarray) -> np.ndarray:
    """(N, T, …) → (T, N, …), and back."""
    return np.ascontiguousarray(np.swapaxes(array, 0, 1))


def read_inputs(name: str, x: Any, first: Layer, features: int | None, dtype: np.dtype[Any]) -> np.ndarray:
    """Validated inputs for this first layer: ids (examples, T) int32, or vectors (examples, T, D)."""
    array = _array(name, x)
    if first.ids is not None:
        if array.ndim != 2:
            raise ShapeError(f"{name} has shape {array.shape}, expected ids (examples, steps) for the Embedding layer.")
        _expect_some(name, array)
        return _ids(name, array, first.ids, "Embedding: input_dim")
    if array.ndim != 3 or (features is not None and array.shape[2] != features):
        raise ShapeError(
            f"{name} has shape {array.shape}, expected vectors (examples, steps, {features or 'features'}), because "
            "the first layer is not an Embedding. If these are ids, add an Embedding."
        )
    _expect_some(name, array)
    return read_numbers(name, array, dtype)


def read_targets(name: str, y: Any, loss: str, output: Shape, dtype: np.dtype[Any]) -> np.ndarray:
    """Validated targets for this loss and output (examples, V) or (examples, T, V): ids int32, or numbers in the output's shape."""
    array = _array(name, y)
    if array.ndim == 0 or len(array) != output[0]:
        raise ShapeError(f"{name} has shape {array.shape}, expected a target for each of the {output[0]} examples.")
    if loss == "categorical_crossentropy":
        _expect(name, array, output, (output,), "one-hot rows (ids go with loss='sparse_categorical_crossentropy')")
        return _one_hot(name, array)
    if loss == "sparse_categorical_crossentropy":
        answers = output[:-1]
        _expect(name, array, output, (answers, (*answers, 1)), "ids (one-hot rows go with loss='categorical_crossentropy')")
        return _ids(name, array.reshape(answers), output[-1], "units of the last layer")
    shapes = (output, output[:-1]) if output[-1] == 1 else (output,)
    _expect(name, array, output, shapes, "numbers from 0 to 1")
    numbers = read_numbers(name, array, dtype)
    _refuse(name, array, (numbers < 0) | (numbers > 1), "expected a number from 0 to 1")
    return numbers.reshape(output)


def read_numbers(name: str, values: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Validated finite numbers of any shape."""
    array = _array(name, values)
    with np.errstate(over="ignore"):  # numbers too large for dtype are rejected below
        numbers = array.astype(dtype)
    _refuse(name, array, ~np.isfinite(numbers), f"expected a finite number of {dtype}")
    return numbers


def _array(name: str, values: Any) -> np.ndarray:
    try:
        array = as_array(name, values)
    except ShapeError:
        raise
    except ValueError as error:
        raise ShapeError(f"{name} has rows of different lengths; make them equal, for example by padding.") from error
    except Exception as error:  # an object whose own conversion fails
        raise ShapeError(f"{name} is {shown(values)}, which NumPy cannot convert to an array; expected an array of numbers.") from error
    if array.dtype.kind not in "biuf":
        what = shown(values) if array.ndim == 0 else f"{type(values).__name__} of {array.dtype}"
        raise ShapeError(f"{name} is {what}, expected an array of numbers.")
    return array


def _expect_some(name: str, array: np.ndarray) -> None:
    if 0 in array.shape:
        raise ShapeError(f"{name} is empty, with shape {array.shape}; give at least one example of at least one step.")


def _expect(name: str, array: np.ndarray, output: Shape, shapes: tuple[Shape, ...], what: str) -> None:
    if array.shape not in shapes:
        wanted = " or ".join(str(shape) for shape in shapes)
        when = "every step" if len(output) == 3 else "each sequence"
        raise ShapeError(f"{name} has shape {array.shape}, expected {wanted}: {what}. The model has one output for {when}; "
                         "return_sequences of the last recurrent layer decides this.")


def _refuse(name: str, array: np.ndarray, bad: np.ndarray, why: str, error: type[ValueError] = ShapeError) -> None:
    """Raise ``error`` for the first bad element."""
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), bad.shape)
        where = ", ".join(str(index) for index in place)
        raise error(f"{name}[{where}] is {array[place]}, {why}.")


def _ids(name: str, array: np.ndarray, size: int, setting: str) -> np.ndarray:
    if array.dtype.kind == "f":
        _refuse(name, array, ~np.isfinite(array) | (array != np.floor(array)), "expected a whole number, an id")
    _refuse(name, array, (array < 0) | (array >= size), f"expected an id from 0 to {size - 1} ({setting} is {size})",
            VocabularyError)
    return array.astype(np.int32)


def _one_hot(name: str, array: np.ndarray) -> np.ndarray:
    """One-hot rows (…, V) → ids (…)."""
    bad = (np.count_nonzero(array, axis=-1) != 1) | (array.max(axis=-1) != 1)
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), bad.shape)
        where = ", ".join(str(index) for index in place)
        raise ShapeError(f"{name}[{where}] is not one-hot, expected a single 1 and otherwise zeros.")
    ids: np.ndarray = array.argmax(axis=-1).astype(np.int32)
    return ids
