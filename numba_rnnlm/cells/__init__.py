"""Recurrent cells: each is a page of equations; none knows a loop over time, a matrix or a machine."""

from ..errors import ConfigError
from .cell import Cell
from .gru import GRU
from .lstm import LSTM
from .simple import RELU, SIGMOID, TANH

CELLS: dict[str, Cell] = {cell.name: cell for cell in (TANH, RELU, SIGMOID, LSTM, GRU)}
BUILT_IN = frozenset(CELLS)


def register(cell: Cell) -> Cell:
    """Make ``cell`` known by its name, to build and to load models with it; of two with one name the later counts."""
    if cell.name in BUILT_IN and cell is not CELLS[cell.name]:
        raise ConfigError(f"a cell named {cell.name!r} is part of the library; give yours another name.")
    CELLS[cell.name] = cell
    return cell


def get(name: str) -> Cell:
    """The cell of this name."""
    if name not in CELLS:
        raise ConfigError(
            f"cell is {name!r}, expected one of {', '.join(map(repr, CELLS))}; "
            "a cell of your own is added with numba_rnnlm.cells.register(cell)."
        )
    return CELLS[name]


__all__ = ["BUILT_IN", "CELLS", "GRU", "LSTM", "RELU", "SIGMOID", "TANH", "Cell", "get", "register"]
