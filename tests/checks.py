"""Checks that several tests share."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from numba import njit

import numba_rnnlm
from numba_rnnlm.backends import complex_step
from numba_rnnlm.backends.complex_step import STEP
from numba_rnnlm.backends.ops import Ops
from numba_rnnlm.checking.comparing import difference

# Relative to the largest element. The largest errors measured over thousands of drawn calls are 3e-6 and 4e-15.
TOLERANCE = {"float32": 1e-5, "float64": 2e-14}

ROUNDS = int(os.environ.get("NUMBA_RNNLM_ROUNDS", "1"))  # multiplies the number of races, kills and faults that are tried

HANG = 900  # seconds after which a test gives up on a hanging process or thread; far more than a busy computer needs


def examples(number: int) -> settings:
    """Hypothesis settings with this many examples where other tests have 20; a longer run scales both alike."""
    return settings(max_examples=max(1, number * settings().max_examples // 20))


def call(ops: Ops, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a verb; returns all array arguments as it left them, and its ``result`` if it returns one."""
    here = {
        name: ops.upload(value.copy()) if isinstance(value, np.ndarray) and name != "h" else value
        for name, value in arguments.items()
    }
    if verb == "recur_backward":  # it needs what the same backend's recur left in z
        ops.recur(*(here[name] for name in ("cell", "U", "z", "s")), here.get("w"), here.get("lengths"))
    result = getattr(ops, verb)(**here)
    after = {
        name: ops.download(value) for name, value in here.items()
        if isinstance(arguments[name], np.ndarray) and name != "h"  # h, a rule's hyperparameters, stays on the host
    }
    if verb == "recur":
        after.pop("z")  # each backend leaves there what its own recur_backward needs
    return after if result is None else after | {"result": result}


def error(got: Any, want: Any) -> float:
    """Largest difference, relative to the largest element of ``want``, or to 1 if all are smaller."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    return difference(got, want)


def assert_close(got: dict[str, Any], want: dict[str, Any], tolerance: float) -> None:
    """The same names, and all arrays within ``tolerance``."""
    assert set(got) == set(want)
    for name in want:
        off = error(got[name], want[name])
        assert off <= tolerance, f"{name} is off by {off:.1e}, more than {tolerance:.0e}"


def assert_same_bits(got: dict[str, Any], want: dict[str, Any]) -> None:
    """The same names, and all arrays equal; NaN equals NaN."""
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], name, strict=True)


def run_python(program: str, **environment: str) -> None:
    """Run ``program`` with this package in its own process, and raise an exception if it fails."""
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=HANG, stdout=subprocess.DEVNULL,
        cwd=Path(numba_rnnlm.__file__).parents[1], env=os.environ | environment,
    )  # fmt: skip


def without_notice(errors: bytes) -> bytes:
    """Standard error of a process without the notice about compiling."""
    return b"".join(line for line in errors.splitlines(keepends=True) if b"compiling kernels" not in line)


def from_python(kernel: Any) -> Any:
    """Make a kernel callable from Python that otherwise only kernels can call."""
    return njit(lambda *arguments: kernel(*arguments))


def slope(function: Callable[..., np.ndarray], points: Sequence[np.ndarray], directions: Sequence[np.ndarray]) -> Any:
    """Derivative of ``function`` at ``points`` along ``directions``, by complex step, exact to rounding."""
    moved = (point + 1j * STEP * direction for point, direction in zip(points, directions, strict=True))
    return function(*moved).imag / STEP


def assert_adjoint(
    upstream: np.ndarray, forward: np.ndarray, directions: Sequence[Any], gradients: Sequence[Any], tolerance: float
) -> None:
    """⟨upstream, J v⟩ = ⟨Jᵀ upstream, v⟩: one number compares a whole backward pass with the derivative J v."""
    terms = [np.asarray(v, np.float64) * gradient for v, gradient in zip(directions, gradients, strict=True)]
    want, got = (upstream * forward).sum(), sum(term.sum() for term in terms)
    size = sum(abs(term).sum() for term in terms) + abs(upstream * forward).sum()
    assert abs(got - want) <= tolerance * size, f"⟨Jᵀu, v⟩ is {got:.12g}, ⟨u, J v⟩ {want:.12g}"


class ComplexStep(complex_step.Backend):
    """Forward only: ``backward`` verbs do nothing, so that ``Network.differentiate`` runs, including dropout."""

    def cross_entropy_backward(self, x, W, b, targets, scale, losses, dx, dW, db, transposed=False, add=False):
        self.cross_entropy(x, W, b, targets, losses, transposed)

    def binary_cross_entropy_backward(self, logits, targets, scale, losses):
        self.binary_cross_entropy(logits, targets, losses)

    def _nothing(self, *arguments, **options):
        pass

    scatter_add = project_backward = attend_backward = recur_backward = activate_backward = _nothing


def file_state(path: Path) -> list[int]:
    """The parts of ``lstat`` that change when a file is written, replaced or changes its owner; not the access time, which reading changes."""
    return [getattr(path.lstat(), f"st_{name}") for name in ("ino", "mode", "uid", "gid", "size", "mtime_ns")]
