"""What a cell computes, as numbers: a file names a cell of your own, and recognises it by what it computes.

A digest of the code would do for one version of Python and of this library, and change with what changes no number, such as a
name or the order of two lines; of a cell that uses an array of its own it would not tell anything. So the numbers of one step from a
fixed input are kept, and compared with a tolerance for another machine's rounding.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import cells
from .backends.ops import Ops
from .cells import Cell
from .errors import ConfigError, ModelFileError, shown
from .layers import Layer
from .layers.description import cells_within

UNITS = 16  # The probe has so many; its upper half sees large numbers.
TOLERANCE = 1e-4  # relative, and absolute below 1: float32 on another machine is off by up to 1e-5
DIGITS = 6  # A file holds each number to so many.

Record = dict[str, Any]


def own_cells(layers: Iterable[Layer]) -> dict[str, Cell]:
    """The cells of these layers that are not part of the library, by their names.

    Raises
    ------
    ConfigError
        Two different cells have one name, by which a file could not tell them apart.
    """
    found: dict[str, Cell] = {}
    for cell in cells_within(layers):
        if cell.name not in cells.BUILT_IN and found.setdefault(cell.name, cell) is not cell:
            raise ConfigError(f"the model has two cells named {cell.name!r}, and a file knows a cell by its name; give one of them "
                              "another name.")
    return found


def records(ops: Ops, layers: Iterable[Layer], gradients: bool = False) -> dict[str, Record]:
    """What each cell of your own in these layers computes, ready for JSON; with ``gradients`` also backwards."""
    return {name: probed(ops, cell, gradients) for name, cell in own_cells(layers).items()}


def difference(ops: Ops, cell: Cell, record: Mapping[str, Any], gradients: bool = False) -> str:
    """How a cell differs from the one of which this is the record, in words; empty if it does not.

    Without ``gradients`` only forward: that decides what a trained model computes.
    """
    keys = ["step", "gradients"] if gradients and "gradients" in record else ["step"]
    here = probed(ops, cell, "gradients" in keys)
    for key, there in (("slots", record["slots"]), ("states", record["states"]), ("weights", record.get("weights", []))):
        if there != (now := here.get(key, [])):
            return f"its {key} are {there} there and {now} here"
    for key in keys:
        names = [f"new state {name!r}" for name in here["states"]]
        if key == "gradients":
            names = [f"gradient of {name!r}" for name in (*here["states"], *cell.gates, *cell.weights)]
        for name, there, now in zip(names, record[key], here[key], strict=True):
            old, new = (np.array([np.nan if value is None else value for value in values], float) for values in (there, now))
            off = np.flatnonzero(~np.isclose(old, new, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
            if off.size:
                return f"from one and the same input, its {name} is {old[off[0]]:g} there and {new[off[0]]:g} here"
    return ""


def differences(ops: Ops, layers: Iterable[Layer], recorded: Mapping[str, Any], gradients: bool = False) -> dict[str, str]:
    """The cells of your own in these layers that differ from those of the same names in these :func:`records`: name → :func:`difference`."""
    found = {name: difference(ops, cell, recorded[name], gradients) for name, cell in own_cells(layers).items() if name in recorded}
    return {name: differs for name, differs in found.items() if differs}


def cells_of_file(
    file: str, about: Mapping[str, Any], names: Iterable[str], given: Sequence[Cell], known: Mapping[str, Cell], ops: Ops, load: str
) -> dict[str, Cell]:
    """The cells that a file names and that are not part of the library: those that are given, or else known here, or else registered.

    Parameters
    ----------
    file, about
        Name and header of the file.
    names
        Of all its cells.
    given
        Cells to take whatever the file says that they compute.
    known
        Cells by name, to take if they compute what the file says.
    ops
        The backend.
    load
        The call that loads the file with a cell ``{cell}``, for error messages.

    Raises
    ------
    ModelFileError
        A cell is not known here, or computes something else than the one of the file; or one is given that the file does not name.
    """
    found: dict[str, Cell] = {}
    wanted = [name for name in dict.fromkeys(names) if name not in cells.BUILT_IN]
    for cell in given:
        if not isinstance(cell, Cell) or cell.name not in wanted:
            raise ModelFileError(f"{file!r} names no cell such as {shown(cell)}, which was given; the custom cells that it names are "
                                 f"{wanted}. dataclasses.replace(cell, name=...) gives a cell another name.")
        found[cell.name] = cell
    for name in wanted:
        if name in found:
            continue
        if name not in known and name not in cells.CELLS:
            raise ModelFileError(
                f"{file!r} uses the custom cell {name!r}, which is not known here; load it in Python, with custom_objects={{{name!r}: cell}}, or call "
                "numba_rnnlm.cells.register(cell) first."
            )
        found[name], where, here = (known[name], "given", "cell") if name in known else (cells.CELLS[name], "registered", f"cells.get({name!r})")
        if (record := about.get("cells", {}).get(name)) and (differs := difference(ops, found[name], record)):
            raise ModelFileError(
                f"{file!r} was saved with another cell named {name!r} than the one that is {where} here: {differs}. Load it with the cell that "
                f"the model was trained with; or, to use its weights with this one, call {load.format(cell=here)}."
            )
    return found


def step(
    ops: Ops, cell: Cell, z: np.ndarray, prev: np.ndarray, w: np.ndarray, d: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """One step of N streams, without a matrix.

    Parameters
    ----------
    z, prev, w
        Sums (N, G, H), states (N, S, H), and the cell's vectors of weights (K, H).
    d
        Gradient of the new states (N, S, H).

    Returns
    -------
    dict
        "next", the new states; with ``d`` also "d", "z" and, if the cell has weights, "w": the gradients of ``prev``, ``z`` and ``w``.
    """
    units, (first, last) = z.shape[-1], cell.window("h")
    zeros = np.zeros((units, (last - first) * units))
    s, sums = ops.upload(np.stack([prev, np.zeros(prev.shape)])), ops.upload(z[np.newaxis].copy())  # a verb overwrites what it is given
    U, dU = (ops.upload(zeros) if zeros.size else None for _ in range(2))
    weights, dw = (ops.upload(w.copy()) if cell.weights else None for _ in range(2))
    ops.recur(cell, U, sums, s, weights)
    found = {"next": ops.download(s)[1]}
    if d is not None:
        gradient = ops.upload(d.copy())
        ops.recur_backward(cell, U, sums, s, None, gradient, dU, weights, dw)
        found |= {"d": ops.download(gradient), "z": ops.download(sums)[0]} | ({} if dw is None else {"w": ops.download(dw)})
    return found


def probed(ops: Ops, cell: Cell, gradients: bool = False) -> Record:
    """What a cell computes in one step from a fixed input."""
    slots, states = len(cell.gates), len(cell.states)
    z, prev, w = _values(2, 1, slots), _values(1, 1, states), _values(4, len(cell.weights))
    found = step(ops, cell, z, prev, w, _values(3, 1, states) if gradients else None)
    record = {"slots": [list(slot) for slot in cell.gates.items()], "states": list(cell.states),
              **({"weights": list(cell.weights)} if cell.weights else {}), "step": _plain(found["next"][0])}
    if gradients:
        record["gradients"] = _plain(np.concatenate([found["d"][0], found["z"][0], *([found["w"]] if cell.weights else [])]))
    return record


def computed(cell: Cell) -> list[list[float | None]]:
    """The new states of the step of :func:`probed` from the row function itself, run in Python: the equations may say something else."""
    z, prev, w = _values(2, len(cell.gates)), _values(1, len(cell.states)), _values(4, len(cell.weights))
    found, forward = np.empty_like(prev), getattr(cell.forward, "py_func", cell.forward)
    with np.errstate(all="ignore"):
        forward(z, prev, found, *cell.with_weights(w), 0, 1)
    return _plain(found)


def _values(number: int, *shape: int) -> np.ndarray:
    """Fixed numbers, the same with every version of NumPy: within ±2, and ±16 in the upper half of the units."""
    places = np.arange(np.prod(shape) * UNITS).reshape(*shape, UNITS)
    return np.asarray(2 * np.sin(number + 0.7 * places**1.5) * np.where(np.arange(UNITS) < UNITS // 2, 1, 8))


def _plain(rows: np.ndarray) -> list[list[float | None]]:
    return [[float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in row] for row in rows.tolist()]
