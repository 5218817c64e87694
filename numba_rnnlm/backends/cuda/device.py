"""Imports numba.cuda, reports problems of the installation, and makes device functions.

numba-cuda is in maintenance mode; only this module, ``intrinsics`` and ``launch`` would have to change with its successor.
"""

import importlib
from typing import Any

import numpy as np
from numba import config

from ...errors import BackendError
from .. import ANYWAY

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
DRIVER = (12, 0)  # the first version whose driver can load kernels without a context
LEAST = (8, 0)  # the first compute capability with asynchronous copies and TF32
INSTALL = 'install the extra "cuda", for example with pip install ".[cuda]" in the source tree'

try:
    cuda: Any = importlib.import_module("numba.cuda")
except ImportError as error:  # not for lack of a driver: the installation is incomplete
    raise BackendError(f'backend="cuda": numba.cuda cannot be imported ({error}); {INSTALL}, or {ANYWAY}') from error


def _load_types() -> None:
    """Load numba-cuda's array typing: version 0.30 refers to np.row_stack, which NumPy 2.5 no longer has."""
    missing = not hasattr(np, "row_stack")
    if missing:
        setattr(np, "row_stack", np.vstack)  # noqa: B010
    try:
        importlib.import_module("numba.cuda.np.arrayobj")
    finally:
        if missing:
            delattr(np, "row_stack")


if SIMULATED:
    importlib.import_module(".simulator", __package__)  # must patch Numba before any kernel is created
    types: Any = importlib.import_module("numba.types")
elif getattr(cuda, "implementation", "") == "NVIDIA":
    _load_types()
    types = importlib.import_module("numba.cuda.types")
else:  # Numba's built-in CUDA target, which cannot run our kernels: see missing()
    types = importlib.import_module("numba.types")


FORKED = ("this process was forked from one that had used the GPU, and CUDA does not work after a fork. Start processes with "
          'multiprocessing\'s "spawn" method, or fork before the first use.')
_fork: dict[str, bool] = {"used": False, "forked": False}


def note_fork() -> None:
    """Called in a child process: CUDA does not work in it if its parent has used CUDA."""
    _fork["forked"] = _fork["used"]


def forked() -> bool:
    """Whether a parent process has used the GPU before this one was forked."""
    return _fork["forked"]


def inline(function: Any) -> Any:
    """A device function, inlined into the kernels that call it."""
    return cuda.jit(function, device=True) if SIMULATED else cuda.jit(function, device=True, inline="always")


@inline
def divided(number, by):
    """Quotient and remainder of two numbers in [0, 2³²), because a 64-bit division would cost ten times as much."""
    quotient = np.uint32(number) // np.uint32(by)
    return np.int64(quotient), np.int64(np.uint32(number) - quotient * np.uint32(by))


def missing() -> str | None:
    """Why kernels cannot run here and what to do about it; None if they can."""
    if SIMULATED:
        return None
    if getattr(cuda, "implementation", "") != "NVIDIA":
        return f'backend="cuda" needs numba-cuda, which is not installed: {INSTALL}; or {ANYWAY}'
    if forked():
        return f'backend="cuda": {FORKED}'
    _fork["used"] = True  # the next call initialises CUDA
    problem = cuda.cuda_error()
    if problem is not None or not _has_device():
        why = " ".join(str(problem).split()).rstrip(".") if problem is not None else "no device was found"
        return (f'backend="cuda" needs an NVIDIA GPU and its driver ({why}). Install the driver, or make the device '
                f"visible (CUDA_VISIBLE_DEVICES); or {ANYWAY}")
    device = cuda.get_current_device()
    if device.compute_capability < LEAST:
        have = ".".join(map(str, device.compute_capability))
        return (f'backend="cuda" needs compute capability {LEAST[0]}.{LEAST[1]} (Ampere) or later, but {name(device)} has {have}; '
                f"{ANYWAY}")
    if (version := cuda.cudadrv.driver.get_version()) < DRIVER:
        return (f'backend="cuda" needs a driver for CUDA {DRIVER[0]} or later, but this one is for {version[0]}.{version[1]}; update it, '
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
    """NVIDIA's name for a device of Numba's."""
    return device.name.decode() if isinstance(device.name, bytes) else str(device.name)


def about() -> str:
    """A description of the device."""
    if SIMULATED:
        return "Numba's simulator (NUMBA_ENABLE_CUDASIM=1): slow, for tests"
    if forked():
        return f"a GPU, but {FORKED}"
    device = cuda.get_current_device()
    major, minor = device.compute_capability
    return f"{name(device)}, compute capability {major}.{minor}, {device.MULTIPROCESSOR_COUNT} multiprocessors"
