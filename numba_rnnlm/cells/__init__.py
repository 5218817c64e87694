"""Recurrent cells: each is a page of equations; none knows a loop over time, a matrix or a machine."""

import copyreg

from ..errors import ConfigError, expect_kind, shown
from ..suggestions import value_meant
from .cell import Cell
from .gru import GRU
from .lstm import LSTM
from .simple import RELU, SIGMOID, TANH

CELLS: dict[str, Cell] = {cell.name: cell for cell in (TANH, RELU, SIGMOID, LSTM, GRU)}
BUILT_IN = frozenset(CELLS)


def register(cell: Cell) -> Cell:
    """Make ``cell`` known by its name, to build and to load models with it.

    Of two cells with one name the later counts for models that are built or loaded from then on; others keep the cell that they have.
    """
    expect_kind("cell", cell, Cell, "a numba_rnnlm.cells.Cell")
    _expect_own_name(cell)
    CELLS[cell.name] = cell
    return cell


def get(cell: str | Cell) -> Cell:
    """The cell of this name; a cell itself is returned as it is."""
    if isinstance(cell, Cell):
        return cell
    name = cell
    if not isinstance(name, str) or name not in CELLS:
        meant = value_meant(name, CELLS) if isinstance(name, str) else ""
        raise ConfigError(f"cell is {shown(name)}, expected one of {', '.join(map(repr, CELLS))}; " + (
            f"did you mean {meant!r}?" if meant else "a cell of your own is added with numba_rnnlm.cells.register(cell)."))
    return CELLS[name]


def held(cell: str | Cell) -> str | Cell:
    """What a model keeps: the name of a cell of the library, which stands for one cell for good; any other cell itself."""
    found = get(cell)
    _expect_own_name(found)
    return found.name if found.name in BUILT_IN else found


copyreg.pickle(Cell, lambda cell: (get, (cell.name,)))  # where it is unpickled, it is the cell that is registered there


def _expect_own_name(cell: Cell) -> None:
    if cell.name in BUILT_IN and cell is not CELLS[cell.name]:
        raise ConfigError(f"a cell named {cell.name!r} is part of the library; give yours another name.")


__all__ = ["BUILT_IN", "CELLS", "GRU", "LSTM", "RELU", "SIGMOID", "TANH", "Cell", "get", "held", "register"]
