"""Recurrent cells: each is a page of equations, without loops over time, matrix products or backends."""

import copyreg
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import checked
from ..errors import ConfigError, expect_kind, shown
from ..suggestions import value_meant
from .cell import Cell
from .gru import GRU
from .indrnn import INDRNN
from .lstm import LSTM
from .mingru import MINGRU
from .minlstm import MINLSTM
from .qrnn import QRNN
from .simple import RELU, SIGMOID, TANH
from .sru import SRU

CELLS: dict[str, Cell] = {cell.name: cell for cell in (TANH, RELU, SIGMOID, LSTM, GRU, MINGRU, MINLSTM, SRU, QRNN, INDRNN)}
BUILT_IN = frozenset(CELLS)

check: Callable[..., None]  # numba_rnnlm.checking.cell's, set when the package is imported


@checked
def register(cell: Cell) -> Cell:
    """Register ``cell`` under its name, so that models with it can be built and loaded.

    Registering a name twice keeps the latest; models that already exist keep their cell.
    """
    expect_kind("cell", cell, Cell, "a numba_rnnlm.cells.Cell")
    _expect_own_name(cell)
    CELLS[cell.name] = cell
    return cell


def get(cell: str | Cell) -> Cell:
    """The cell of this name; a :class:`Cell` is returned unchanged."""
    if isinstance(cell, Cell):
        return cell
    name = cell
    if not isinstance(name, str) or name not in CELLS:
        meant = value_meant(name, CELLS) if isinstance(name, str) else ""
        raise ConfigError(f"cell is {shown(name)}, expected one of {', '.join(map(repr, CELLS))}" + (
            f"; did you mean {meant!r}?" if meant else ".") + " To add your own cell, call numba_rnnlm.cells.register(cell).")
    return CELLS[name]


def held(cell: str | Cell) -> str | Cell:
    """What a model stores: the name of a built-in cell, which never changes, or any other cell itself."""
    found = get(cell)
    _expect_own_name(found)
    return found.name if found.name in BUILT_IN else found


def _pickled(cell: Cell) -> Any:
    """Like a model file, a pickle holds the cell's name and sample results instead of its functions."""
    return _unpickled, (cell.name, _probe(cell))


def _unpickled(name: str, probe: Any) -> Cell:
    """The cell registered under this name, if it computes the same results."""
    if name not in CELLS:
        raise ConfigError(f"the pickle uses the cell {name!r}, which is not registered: import the module that defines it and call "
                          "numba_rnnlm.cells.register(cell) first.")
    cell = get(name)
    here = _probe(cell)
    same_shape = probe[:2] == here[:2] and np.shape(probe[2]) == np.shape(here[2])
    if not same_shape or not np.allclose(probe[2], here[2], rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ConfigError(f"the pickle was made with another cell named {name!r} than the one registered now; register the pickled one.")
    return cell


def _probe(cell: Cell) -> tuple[list[Any], list[str], list[Any]]:
    """Slots, names of states and weights, and the results of the equations for a fixed input."""
    slots, names = list(cell.gates.items()), [*cell.states, *cell.weights]
    z, prev, w = (2 * np.sin(1 + 0.7 * np.arange(8 * rows).reshape(rows, 8) ** 1.5) for rows in map(len, (slots, cell.states, cell.weights)))
    try:
        with np.errstate(all="ignore"):
            return slots, names, np.asarray(cell.equations(z, prev, *cell.with_weights(w)), float).tolist()
    except Exception:  # broken equations: compare slots and names only
        return slots, names, []


copyreg.pickle(Cell, _pickled)


def _expect_own_name(cell: Cell) -> None:
    if cell.name in BUILT_IN and cell is not CELLS[cell.name]:
        raise ConfigError(f"{cell.name!r} is the name of a built-in cell; give yours another name.")


__all__ = ["BUILT_IN", "CELLS", "GRU", "INDRNN", "LSTM", "MINGRU", "MINLSTM", "QRNN", "RELU", "SIGMOID", "SRU", "TANH", "Cell", "check", "get", "held",
           "register"]
