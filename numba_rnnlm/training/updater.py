"""The update of all weights at once, by any optimiser."""

from collections.abc import Callable
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np

from .. import rules
from ..arena import Arena
from ..backends.ops import Array
from ..errors import DivergenceError
from ..network import Network
from ..optimizers.optimizer import Optimizer, numbers_of
from ..reports import warn


class Updater:
    """Updates all weights of a network: clips gradients, then applies the rule in one pass over the flat buffers.

    Parameters
    ----------
    network
        Its ``gradients`` are read, its ``parameters`` changed.
    optimizer
        The rule and its hyperparameters.
    """

    def __init__(self, network: Network, optimizer: Optimizer) -> None:
        self.network, self.optimizer, self.steps = network, optimizer, 0
        self.rounding: str | None = network.ops.rounding()  # how the backend that made the updates so far rounds; None if unknown
        self.moments = network.ops.empty((optimizer.rule.moments, network.parameters.flat.shape[0]))
        self.forget()

    def resume(self, steps: int, rounding: Any) -> None:
        """Continue after this many updates, made on a backend with this :meth:`~numba_rnnlm.backends.ops.Ops.rounding`, None if unknown.

        Raises
        ------
        ValueError
            If ``rounding`` is not a string.
        """
        if rounding is not None and not isinstance(rounding, str):
            raise ValueError(f"the rounding is {rounding!r}")
        self.steps, self.rounding = steps, rounding

    def begin(self) -> None:
        """Called before the first update of a run; warns if earlier updates were made on a backend that rounds differently."""
        here = self.network.ops.rounding()
        if self.steps and self.rounding not in (None, here):
            warn(f"the training so far was computed on {self.rounding!r} and continues on {here!r}: the result is as valid, but "
                 "its last bits differ from those of a training that stays on one of them.")
        self.rounding = here

    def forget(self) -> None:
        """Reset the moments to their starting values."""
        if self.optimizer.rule.moments:
            self.network.ops.fill(self.moments, self.optimizer.start)

    def arenas(self) -> dict[str, Arena]:
        """The moments as moments/0, moments/1, …, each an arena with the names of the weights."""
        layout = self.network.graph.layout
        return {f"moments/{index}": Arena(layout, self.moments[index]) for index in range(self.moments.shape[0])}

    def update(self, rate: float | None = None) -> float:
        """Update the weights from their gradients; returns the norm of the gradient before clipping.

        Raises
        ------
        DivergenceError
            If the gradient contains NaN or infinity; the weights are then unchanged.
        """
        network, limits = self.network, self.optimizer.limits
        norm = self._clip_each(limits.each) if limits.each else _finite_norm(network.ops.norm(network.gradients.flat))
        scale = min(1.0, limits.whole / norm) if limits.whole and norm > 0 else 1.0
        network.ops.update(
            self.optimizer.rule, network.parameters.flat, network.gradients.flat, self.moments, self._numbers(scale, rate)
        )
        network.changed()
        return norm

    @property
    def behind(self) -> int:
        """How many updates may be started before the outcome of the first one is fetched."""
        return int(self._queue is not None)

    @property
    def _queue(self) -> Any:
        """The backend's asynchronous update, if it has one; None when clipping by the norm of each variable, which needs norms first."""
        return None if self.optimizer.limits.each else getattr(self.network.ops, "update_if_finite", None)

    def start(self, losses: Array, rate: float | None = None) -> Callable[[], tuple[float, float]]:
        """:meth:`update`, provided that the ``losses`` are finite too. Returns a function that returns the sum of losses and the norm.

        On a GPU the update is queued at once, and the function waits for it; otherwise the function makes the update. A non-finite update
        changes nothing, nor do later ones, until its function has raised.

        Raises
        ------
        DivergenceError
            Raised by the function if the losses or the gradient contain NaN or infinity; the weights are then unchanged.
        """
        network = self.network
        if self._queue is None:
            return lambda: (_finite_sum(network.ops.download(losses)), self.update(rate))
        outcome = self._queue(self.optimizer.rule, network.parameters.flat, network.gradients.flat, self.moments,
                              self._numbers(1.0, rate), self.optimizer.limits.whole or inf, losses)
        network.changed()

        def result() -> tuple[float, float]:
            each, norm = outcome()
            return _finite_sum(each), _finite_norm(norm)

        return result

    def _numbers(self, scale: float, rate: float | None) -> np.ndarray:
        """Count the next update, and return the rule's hyperparameters for it."""
        self.steps += 1
        numbers = numbers_of(self.optimizer, self.steps, self.optimizer.learning_rate if rate is None else rate)
        return np.array([scale, self.optimizer.limits.element or inf, *numbers])

    def _clip_each(self, limit: float) -> float:
        """Clip the gradient of each variable to this norm; returns the norm of the whole gradient before clipping."""
        ops, gradients = self.network.ops, self.network.gradients
        norms = {name: ops.norm(gradient.reshape(-1)) for name, gradient in gradients.items()}
        whole = _finite_norm(sqrt(sum(norm * norm for norm in norms.values())))
        for name, norm in norms.items():
            if norm > limit:
                flat = gradients[name].reshape(-1)
                ops.update(rules.SCALE, flat, flat, ops.empty((0, flat.shape[0])), np.array([limit / norm, inf]))
        return whole


def _finite_norm(norm: float) -> float:
    if not isfinite(norm):
        raise DivergenceError("the gradient is not finite")
    return norm


def _finite_sum(losses: np.ndarray) -> float:
    total = float(losses.sum(dtype=np.float64))
    if not isfinite(total):
        raise DivergenceError("the loss is not finite")
    return total
