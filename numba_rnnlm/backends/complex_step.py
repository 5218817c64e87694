"""The reference in complex numbers: the imaginary part carries a derivative through the forward pass (Squire and Trapp 1998)."""

import numpy as np

from . import reference
from .reference import STEP, Array, Shape

__all__ = ["STEP", "Backend"]


class Backend(reference.Backend):
    """The forward verbs of the reference for x + i·STEP·v: the imaginary part of each result is STEP times the derivative along v.

    The reference's maxima and absolute values, which guard against overflow, are left out, because they are not analytic.

    Examples
    --------
    >>> ops, x = Backend(), np.array([0.5 + 1j * STEP])
    >>> ops.activate("tanh", x)
    >>> bool(np.isclose(x.imag / STEP, 1 - np.tanh(0.5) ** 2))
    True
    """

    dtype = np.dtype(complex)

    def empty(self, shape: Shape) -> Array:
        return np.full(shape, np.nan + 0j)

    def upload(self, array: Array) -> Array:
        return np.array(array, np.int32 if array.dtype.kind in "iub" else complex)

    def cross_entropy(
        self, x: Array, W: Array, b: Array | None, targets: Array, losses: Array, transposed: bool = False
    ) -> None:
        logits = x @ (W.T if transposed else W) + (0 if b is None else b)
        self._log_softmax(logits)
        losses[...] = np.where(targets >= 0, -logits[np.arange(len(targets)), targets], 0)

    def binary_cross_entropy(self, logits: Array, targets: Array, losses: Array) -> None:
        losses[...] = (np.log(1 + np.exp(logits)) - logits * targets).mean(-1).reshape(losses.shape)
