"""How a kernel is compiled, and how a cell or a rule travels into one."""

from collections.abc import Callable, Iterable
from typing import Any

from numba import njit, types
from numba.extending import NativeValue, models, register_model, typeof_impl, unbox

from ...portable import FAST, Rows

_rows: dict[str, Rows] = {}


def kernel(function: Callable[..., Any] | None = None, *, fastmath: Iterable[str] = FAST) -> Any:
    """Compile on first use, without the GIL, and keep the machine code on disk for the next process."""
    if function is None:
        return lambda function: kernel(function, fastmath=fastmath)
    options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can hold the cache: each process compiles anew, nothing else changes
        return njit(**options)(function)


class RowsType(types.Opaque):
    """The Numba type of one :class:`Rows` object: its rows are known when a loop over them is compiled.

    A type of its own, not a function argument or a closure, is what lets the loop be cached on disk. The
    key carries a digest of the rows' source: an edited row is another type, so machine code is never stale.
    """

    def __init__(self, key: str) -> None:
        self.rows_key = key
        super().__init__(f"Rows[{key}]")

    def row(self, name: str) -> Callable[..., None]:
        return _rows[self.rows_key].rows()[name]


@typeof_impl.register(Rows)
def _typeof(rows: Rows, context: Any) -> RowsType:
    _rows[rows.key] = rows
    return RowsType(rows.key)


@unbox(RowsType)
def _unbox(typ: RowsType, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


register_model(RowsType)(models.OpaqueModel)
