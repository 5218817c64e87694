"""The interface of a cell."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..arguments import checked
from ..errors import ConfigError, expect_items, expect_kind, expect_number, expect_text, shown
from ..portable import Rows, fault

Array = np.ndarray
ROW = {"forward": ("z", "prev", "next", "start", "stride"), "backward": ("z", "prev", "next", "d", "start", "stride")}  # the arguments
WEIGHED = {"forward": ("z", "prev", "next", "w", "start", "stride"), "backward": ("z", "prev", "next", "d", "w", "dw", "start", "stride")}  # with weights


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Cell(Rows):
    """One step of a recurrent layer for one stream, after the matrix products.

    A layer projects the input and the previous state into the cell's *slots*, adds the bias, and passes the
    sums ``z`` (G, H) to the cell, with the previous states ``prev`` (S, H). Element j of every result may depend
    on column j alone; this one rule lets the same functions run on every backend.

    A cell may have its own weight vectors ``w`` (K, H), for example peepholes or elementwise recurrent weights. If no slot
    sees the state, the time loop has no matrix product and is a scan.

    Parameters
    ----------
    name
        As in ``LanguageModel(cell=name)``. Letters, digits, ``_`` and ``-``, because names of weights contain it.
    gates
        Slot → what is projected into it: ``"x"`` the input, ``"h"`` the state, ``"xh"`` both. The slots
        that see the input must be neighbours, and so must those that see the state, if any. ``"="``, for the last of those that see the
        input: the input itself, without a matrix, if it has as many features as the layer has units; otherwise as ``"x"``.
    states
        Names of the states; the first is the output that the next layer sees.
    equations
        The specification in NumPy, ``(z (G, …), prev (S, …)) → next (S, …)``; must also accept complex numbers.
    forward
        Row function ``(z, prev, next, start, stride)``: sums → activations in place, prev → next.
    backward
        Row function ``(z, prev, next, d, start, stride)``: activations → gradients of the sums in place;
        d: gradient of ``next`` → gradient of ``prev`` (without the part that flows through the state's matrix).
    weights
        Names of the cell's weight vectors, if any. They are passed as ``w`` (K, H) to ``equations(z, prev, w)``,
        ``forward(z, prev, next, w, start, stride)`` and ``backward(z, prev, next, d, w, dw, start, stride)``, which
        adds their gradients to ``dw`` (K, H).
    initial
        Name of a weight vector → the range of its starting values, which are uniform; without one, ±√(3 / H).

    Examples
    --------
    An independently recurrent network (Li et al. 2018), h' = tanh(W x + b + u ⊙ h):

    >>> import numpy as np
    >>> from numba_rnnlm.portable import dtanh, portable, tanh
    >>> @portable
    ... def forward(z, prev, next, w, start, stride):
    ...     a, h, h_prev, u = z[0], next[0], prev[0], w[0]
    ...     for j in range(start, h.size, stride):
    ...         h[j] = tanh(a[j] + u[j] * h_prev[j])
    >>> @portable
    ... def backward(z, prev, next, d, w, dw, start, stride):
    ...     a, h, h_prev, dh, u, du = z[0], next[0], prev[0], d[0], w[0], dw[0]
    ...     for j in range(start, h.size, stride):
    ...         a[j] = dh[j] * dtanh(h[j])
    ...         du[j] += a[j] * h_prev[j]
    ...         dh[j] = a[j] * u[j]
    >>> Cell("indrnn", {"a": "x"}, ("h",), lambda z, prev, w: np.tanh(z + w * prev), forward, backward, weights=("u",))
    <Cell 'indrnn'>
    """

    name: str
    gates: Mapping[str, str]
    states: tuple[str, ...]
    equations: Callable[..., Array]
    forward: Callable[..., None]
    backward: Callable[..., None]
    weights: tuple[str, ...] = ()
    initial: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w-]+", self.name):
            raise ConfigError(f"the name of a cell is {shown(self.name)}, expected letters, digits, _ and -, such as 'my_cell'.")
        expect_kind(f"cell {self.name!r}: gates", self.gates, Mapping, "slots and what they see, such as {'a': 'xh'}")  # type: ignore[type-abstract]
        for slot, source in self.gates.items():
            expect_text(f"cell {self.name!r}: a slot of gates", slot, "a")
            if not isinstance(source, str) or source not in ("x", "h", "xh", "="):
                raise ConfigError(f"cell {self.name!r}: slot {slot!r} sees {shown(source)}, expected 'x', 'h', 'xh' or '='.")
        for what, example in (("states", "h"), ("weights", "u")):
            names = expect_items(f"cell {self.name!r}: {what}", getattr(self, what), f"names such as ({example!r},)")
            for name in names:
                expect_text(f"cell {self.name!r}: a name of {what}", name, example)
            object.__setattr__(self, what, tuple(names))
        if not self.states:
            raise ConfigError(f"cell {self.name!r}: states is empty, expected names such as ('h',).")
        for letter in "xh":
            if self._seen(letter) != list(range(*self.window(letter))):
                raise ConfigError(f"cell {self.name!r}: the slots that see {letter!r} must be neighbours.")
        if self.window("=") not in ((0, 0), (self.window("x")[1] - 1, self.window("x")[1])):
            raise ConfigError(f"cell {self.name!r}: a slot that sees '=' must be the last one that sees the input, and the only one of its kind.")
        if not self._seen("x"):
            raise ConfigError(f"cell {self.name!r}: no slot sees the input, 'x'; at least one must.")
        for weight, bounds in self._initial().items():
            if weight not in self.weights:
                raise ConfigError(f"cell {self.name!r}: initial has {shown(weight)}, expected names of weights, {self.weights}.")
            low, high = (expect_number(f"cell {self.name!r}: a limit of initial {weight!r}", limit, -1e6, 1e6) for limit in bounds)
            if low > high:
                raise ConfigError(f"cell {self.name!r}: initial {weight!r} is {shown(bounds)}, expected (least, most).")
        for name, function in {"equations": self.equations, **self.rows()}.items():
            if not callable(function):
                decorated = "" if name == "equations" else " with the decorator @numba_rnnlm.portable.portable"
                raise ConfigError(f"cell {self.name!r}: {name} is {shown(function)}, expected a function{decorated}.")
        arguments = WEIGHED if self.weights else ROW
        for row, function in self.rows().items():
            if reason := fault(function):
                raise ConfigError(f"cell {self.name!r}: {row} {reason}.")
            taken = list(inspect.signature(getattr(function, "py_func", function)).parameters)
            if len(taken) != len(arguments[row]):
                raise ConfigError(f"cell {self.name!r}: {row} takes ({', '.join(taken)}), expected ({', '.join(arguments[row])}).")

    def _initial(self) -> dict[Any, list[Any]]:
        what = "ranges such as {'u': (0, 1)}"
        expect_kind(f"cell {self.name!r}: initial", self.initial, Mapping, what)  # type: ignore[type-abstract]
        found = {name: expect_items(f"cell {self.name!r}: initial {name!r}", bounds, "(least, most)") for name, bounds in self.initial.items()}
        for name, bounds in found.items():
            if len(bounds) != 2:
                raise ConfigError(f"cell {self.name!r}: initial {name!r} is {shown(bounds)}, expected (least, most).")
        return found

    def __repr__(self) -> str:
        return f"<Cell {self.name!r}>"

    # Copies of a model share the cell.

    def __copy__(self) -> "Cell":
        return self

    def __deepcopy__(self, memo: object) -> "Cell":
        return self

    def rows(self) -> dict[str, Callable[..., None]]:
        return {"forward": self.forward, "backward": self.backward}

    def window(self, letter: str) -> tuple[int, int]:
        """Range (first, last + 1) of the slots that see the input (``"x"``), the state (``"h"``), or the input itself (``"="``, one of the
        first); (0, 0) if none."""
        return self._windows[letter]

    @cached_property
    def _windows(self) -> dict[str, tuple[int, int]]:
        seen = {letter: self._seen(letter) for letter in "xh="}
        return {letter: (indices[0], indices[-1] + 1) if indices else (0, 0) for letter, indices in seen.items()}

    def _seen(self, letter: str) -> list[int]:
        """The slots that see it."""
        letters = "x=" if letter == "x" else letter
        return [index for index, source in enumerate(self.gates.values()) if set(letters) & set(source)]

    def with_weights(self, w: Any) -> tuple[Any, ...]:
        """The arguments of this cell's functions after the states: (w,) if it has weights, else ()."""
        return (w,) if self.weights else ()
