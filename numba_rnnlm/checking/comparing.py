"""Shared by all checks: random numbers, and comparisons of results with readable errors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from .. import backends
from ..backends.ops import Ops
from ..errors import CheckError

TOLERANCE = {"float32": 1e-4, "float64": 1e-12}  # as in `difference`

Arrays = Mapping[str, np.ndarray]


def floats(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal numbers that float32 represents exactly, so that all backends start from the same ones."""
    return np.asarray(random.standard_normal(shape, np.float32), np.float64)


def compiled() -> list[Ops]:
    """The backends of this computer that are compared with the reference, in float32, in which models are trained."""
    return [backends.get(name, np.float32, threads=2) for name in backends.available() if name != "reference"]


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest element of ``want``, or to 1 if all are smaller.

    Examples
    --------
    >>> difference(np.array([1.0, 5.0]), np.array([1.0, 4.0]))
    0.25
    """
    return float(abs(got - want).max() / max(1.0, abs(want).max())) if want.size else 0.0


def expect_close(where: str, got: Arrays, want: Arrays, advice: str, tolerance: float = TOLERANCE["float64"]) -> None:
    """Raise :class:`CheckError` unless every array of ``want`` is in ``got``, with no :func:`difference` above ``tolerance``."""
    for name, wanted in want.items():
        found = got[name]
        if found.shape != wanted.shape:
            raise CheckError(f"{where}: {name} has the shape {found.shape}, expected {wanted.shape}. {advice}")
        if not difference(found, wanted) <= tolerance:  # true for NaN
            off = np.nan_to_num(abs(found - wanted), nan=np.inf)
            place = np.unravel_index(np.argmax(off), off.shape)
            raise CheckError(f"{where}: {name} is {found[place]:.6g} at {[*map(int, place)]}, expected {wanted[place]:.6g}, which is the largest of "
                             f"{np.sum(off > tolerance)} differences. {advice}")


def expect_finite(where: str, found: Arrays, advice: str) -> None:
    """Raise :class:`CheckError` at NaN or infinity, which compare with nothing."""
    for name, array in found.items():
        if places := np.argwhere(~np.isfinite(array)).tolist():
            raise CheckError(f"{where}: {name} is {array[tuple(places[0])]:.6g} at {places[0]}. {advice}")


@contextmanager
def calls(where: str, advice: str) -> Iterator[None]:
    """Report where the user's code raised an exception."""
    try:
        yield
    except CheckError:
        raise
    except Exception as error:  # a user's class may raise anything
        raise CheckError(f"{where} raised {type(error).__name__}: {str(error).removesuffix('.')}. {advice}") from error
