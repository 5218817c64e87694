"""CPU, GPU and reference behind one interface, :class:`~numba_rnnlm.backends.ops.Ops`. A backend owns every loop and knows nothing of layers."""

import ctypes
import importlib
import sys
from functools import cache
from typing import Any

import numpy as np
from numba import config

from ..arguments import checked
from ..errors import BackendError, ConfigError, expect_number, expect_one_of, shown
from .ops import PRECISIONS, Ops

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
ANYWAY = 'use backend="cpu", or backend="auto", which picks the fastest available.'

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]  # "cuda" is Numba's simulator, for tests
COMPILER_IS_OFF = bool(config.DISABLE_JIT)  # type: ignore[attr-defined]  # NUMBA_DISABLE_JIT: everything runs as plain Python
BACKENDS = ("auto", "cpu", "cuda", "reference")
MOST_THREADS = 1024


def available() -> tuple[str, ...]:
    """The backends that run on this computer."""
    return ("cpu", *(["cuda"] if _cuda_problem() is None else []), "reference")


@cache
def _cuda_problem() -> str | None:
    """Why the GPU cannot be used, or None. Without a driver this costs nothing: numba.cuda is not even imported."""
    if not SIMULATED:
        try:
            ctypes.CDLL(DRIVER)
        except OSError:
            return (f'backend="cuda" needs an NVIDIA GPU and its driver, but {DRIVER} was not found; {ANYWAY}')
    try:
        device = importlib.import_module(".cuda.device", __name__)
    except BackendError as error:
        return str(error)
    problem: str | None = device.missing()
    return problem


def about() -> dict[str, str]:
    """Facts about this computer's CPU and GPU: title → text."""
    told: dict[str, str] = importlib.import_module(".cpu.host", __name__).about()
    problem = _cuda_problem()
    problem = problem and problem.split(";")[0].replace('backend="cuda" ', "")
    return told | {"cuda": problem or importlib.import_module(".cuda.device", __name__).about()}


@checked
def get(name: str = "auto", dtype: Any = None, threads: int | None = None, precision: str = "float32") -> Ops:
    """The backend of this name.

    Parameters
    ----------
    name
        "auto" picks "cuda" (an NVIDIA GPU) if available, else "cpu"; "reference" is NumPy in float64, slow.
    dtype
        float32 (the default) or float64; "reference" is always float64, "cuda" always float32.
    threads
        For "cpu": default NUMBA_RNNLM_NUM_THREADS, or the processors available to this process. Results do not
        depend on it.
    precision
        Of the factors of matrix products; sums, states and weights are always float32. "float32"; "bf16" (7 bits
        of fraction) on tensor cores and on processors with AVX512_BF16; "tf32" (10 bits) on "cuda" only.

    Raises
    ------
    BackendError
        If the backend cannot run on this computer.
    """
    expect_one_of("backend", name, BACKENDS)
    expect_one_of("precision", precision, PRECISIONS)
    name, precision, dtype = str(name), str(precision), _read_dtype(dtype)
    if threads is not None:
        expect_number("threads", threads, 1, MOST_THREADS, whole=True)
    if name == "auto":
        name = "cuda" if _wants_cuda(dtype) else "cpu"
    if name == "cuda":
        problem = _cuda_problem()
        if problem is not None:
            raise BackendError(problem)
        ops: Ops = importlib.import_module(".cuda", __name__).Backend(dtype, threads, precision)
        return ops
    if name == "reference":
        if precision != "float32":
            raise BackendError(f'precision is {precision!r}; backend="reference" rounds nothing and accepts only "float32".')
        ops = importlib.import_module(".reference", __name__).Backend(dtype, threads)
    else:
        ops = importlib.import_module(".cpu", __name__).Backend(dtype, threads, precision)
    return ops


def _read_dtype(dtype: Any) -> Any:
    if dtype is None:
        return None
    try:
        found = np.dtype(dtype)
        good = found.isnative and found.name in ("float32", "float64")
    except Exception:  # np.dtype raises anything, depending on the argument
        good = False
    if not good:
        raise ConfigError(f"dtype is {shown(dtype)}, expected float32 or float64.")
    return found


def _wants_cuda(dtype: Any) -> bool:
    return not SIMULATED and np.dtype(dtype or np.float32) == np.float32 and _cuda_problem() is None
