"""The import of numba.cuda, what it found, and how a function becomes a device function.

numba-cuda is in maintenance; whatever takes its place is met here, in ``intrinsics`` and in ``launch``.
"""

import importlib
from typing import Any

import numpy as np
from numba import config

from ...errors import BackendError
from .. import ANYWAY

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
DRIVER = (12, 0)  # the first whose driver loads kernels without a context, as ours are
LEAST = (8, 0)  # compute capability: the first with asynchronous copies and TF32
INSTALL = 'install the extra "cuda", for example with pip install ".[cuda]" in the source tree'

try:
    cuda: Any = importlib.import_module("numba.cuda")
except ImportError as error:  # numba.cuda imports without a driver; what fails is a part of the installation
    raise BackendError(f'backend="cuda": numba.cuda cannot be imported ({error}); {INSTALL}, or {ANYWAY}') from error


def _load_types() -> None:
    """Load what numba-cuda types arrays by: version 0.30 names np.row_stack, which NumPy 2.5 no longer has."""
    missing = not hasattr(np, "row_stack")
    if missing:
        setattr(np, "row_stack", np.vstack)  # noqa: B010
    try:
        importlib.import_module("numba.cuda.np.arrayobj")
    finally:
        if missing:
            delattr(np, "row_stack")


if SIMULATED:
    importlib.import_module(".simulator", __package__)  # before any kernel is made
    types: Any = importlib.import_module("numba.types")
elif getattr(cuda, "implementation", "") == "NVIDIA":
    _load_types()
    types = importlib.import_module("numba.cuda.types")
else:  # Numba's own, which runs no kernel of ours: see missing()
    types = importlib.import_module("numba.types")


FORKED = ("this process was forked from one that had used the GPU, where CUDA does not work. Start processes by multiprocessing's "
          '"spawn" method, or fork before the first use.')
_fork: dict[str, bool] = {"used": False, "forked": False}


def note_fork() -> None:
    """Called in a child process: CUDA is of no use to it if its parent has used it."""
    _fork["forked"] = _fork["used"]


def forked() -> bool:
    """Whether a parent process has used the GPU before this one was forked."""
    return _fork["forked"]


def inline(function: Any) -> Any:
    """A function that kernels call; it becomes part of each."""
    return cuda.jit(function, device=True) if SIMULATED else cuda.jit(function, device=True, inline="always")


@inline
def divided(number, by):
    """Quotient and remainder of two numbers in [0, 2³²): a 64-bit division would cost ten times as much."""
    quotient = np.uint32(number) // np.uint32(by)
    return np.int64(quotient), np.int64(np.uint32(number) - quotient * np.uint32(by))


def missing() -> str | None:
    """Why no kernel runs here, in a sentence with what to do about it; None if kernels run."""
    if SIMULATED:
        return None
    if getattr(cuda, "implementation", "") != "NVIDIA":
        return f'backend="cuda" needs numba-cuda, which is not installed: {INSTALL}; or {ANYWAY}'
    if forked():
        return f'backend="cuda": {FORKED}'
    _fork["used"] = True  # CUDA, by the next question
    problem = cuda.cuda_error()
    if problem is not None or not _has_device():
        why = " ".join(str(problem).split()).rstrip(".") if problem is not None else "no device was found"
        return (f'backend="cuda" needs an NVIDIA GPU and its driver ({why}). Install the driver, or make the device '
                f"visible (CUDA_VISIBLE_DEVICES); or {ANYWAY}")
    device = cuda.get_current_device()
    if device.compute_capability < LEAST:
        have = ".".join(map(str, device.compute_capability))
        return (f'backend="cuda" needs compute capability {LEAST[0]}.{LEAST[1]} (Ampere or later), {name(device)} has {have}; '
                f"{ANYWAY}")
    if (version := cuda.cudadrv.driver.get_version()) < DRIVER:
        return (f'backend="cuda" needs a driver for CUDA {DRIVER[0]} or later, this one is for {version[0]}.{version[1]}: update it; '
                f"or {ANYWAY}")
    if not cuda.is_available():
        return f'backend="cuda" found a driver but not the compiler libraries libNVVM and nvJitLink: {INSTALL}; or {ANYWAY}'
    return None


def _has_device() -> bool:
    try:
        return len(cuda.gpus) > 0
    except cuda.cudadrv.error.CudaSupportError:
        return False


def name(device: Any) -> str:
    """What NVIDIA calls Numba's device."""
    return device.name.decode() if isinstance(device.name, bytes) else str(device.name)


def about() -> str:
    """What to say about the device."""
    if SIMULATED:
        return "the simulator of Numba (NUMBA_ENABLE_CUDASIM=1): slow, for tests"
    if forked():
        return f"a GPU, but {FORKED}"
    device = cuda.get_current_device()
    major, minor = device.compute_capability
    return f"{name(device)}, compute capability {major}.{minor}, {device.MULTIPROCESSOR_COUNT} multiprocessors"
