"""How a kernel is compiled, where its machine code is kept, and how a cell or a rule travels into one."""

from collections.abc import Callable, Iterable
from typing import Any

from numba import config, njit, types
from numba.core.caching import NullCache
from numba.extending import NativeValue, models, register_model, typeof_impl, unbox

from ...portable import FAST, Rows
from ..cache import cache_folder

_rows: dict[str, Rows] = {}


def kernel(
    function: Callable[..., Any] | None = None, *, fastmath: Iterable[str] = FAST, allocates: bool = False
) -> Any:
    """Compile on first use, without the GIL, and keep the machine code on disk for the next process.

    Only a kernel that ``allocates`` counts references to arrays: the counters are shared, and threads that slice the same
    array would wait for one another.
    """
    if function is None:
        return lambda function: kernel(function, fastmath=fastmath, allocates=allocates)
    options: dict[str, Any] = {"_nrt": allocates}  # an option that Numba's type hints leave out
    dispatcher = njit(nogil=True, fastmath=set(fastmath), error_model="numpy", **options)(function)
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return dispatcher
    before = config.CACHE_DIR  # type: ignore[attr-defined]
    config.CACHE_DIR = folder = cache_folder()  # type: ignore[attr-defined]
    try:
        dispatcher.enable_caching()
        if folder and not str(dispatcher.stats.cache_path).startswith(folder):  # Numba has gone on to beside the source
            dispatcher._cache = NullCache()  # type: ignore[attr-defined]
    except RuntimeError:  # no folder can hold the cache: each process compiles anew, nothing else changes
        pass
    finally:
        config.CACHE_DIR = before  # type: ignore[attr-defined]
    return dispatcher


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
