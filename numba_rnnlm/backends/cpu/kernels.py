"""How kernels are compiled and stored for the next process, and how a cell or a rule is passed into one."""

import hashlib
import pickle
import sys
from collections.abc import Callable
from copy import copy
from functools import cache
from typing import Any

import llvmlite
import numba
from llvmlite import binding
from numba import config, types
from numba.core import compiler, event
from numba.core.caching import _Cache
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.serialize import dumps
from numba.extending import NativeValue, models, register_model, typeof_impl, unbox

from ... import fingerprint, portable
from ...interrupts import postponed
from ...portable import Rows, named
from ..cache import Store
from ..compiling import notice

SETTINGS = "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT"  # Numba settings that change kernels
CODE = [portable.CODE]  # digests of all code that kernels may contain; the package adds its own
_PREFIX = "numba_rnnlm."

_rows: dict[str, Rows] = {}
_row_types: dict[str, "RowsType"] = {}
_linked: dict[str, "_Linked"] = {}
_symbols: dict[str, tuple[str, Any]] = {}  # linked name → its function and argument types


def kernel(
    function: Callable[..., Any] | None = None, *, allocates: bool = False, linked: bool = False, entry: bool = False
) -> Any:
    """Compile on first use, without the GIL, and store the machine code for the next process.

    Parameters
    ----------
    function
        No fast-math flag is set: the compiler rounds each operation as written, so a kernel gives the same bits on every
        processor. Write fast sums in lanes (see :mod:`.sums`), and multiply-adds with a single rounding with
        :func:`numba_rnnlm.portable.fma`.
    allocates
        Whether it creates arrays. Otherwise Numba's reference counting is off: the counters are shared, and threads that
        slice the same array would wait for one another.
    linked
        Whether callers call it by name instead of inlining it. Large kernels that do much work per call are then compiled once,
        not once per caller.
    entry
        Whether Python calls it, and not only other kernels. Without the wrapper that unpacks Python objects, kernels
        compile in a third less time.
    """
    if function is None:
        return lambda function: kernel(function, allocates=allocates, linked=linked, entry=entry)
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return function
    options = {"nopython": True, "nogil": True, "error_model": "numpy", "boundscheck": None, "_nrt": allocates,
               "no_cfunc_wrapper": True, "no_cpython_wrapper": not entry}  # fmt: skip
    dispatcher: Any = (_Linked if linked else _Kernel)(named(function), targetoptions=options)
    dispatcher._cache = _KernelCache(function)
    if linked:
        _linked[_identity(function)] = dispatcher
    return dispatcher


@cache
def store() -> Store:
    """The store for this version of the library and Numba, and this processor."""
    made_of = [*CODE, sys.implementation.cache_tag, numba.__version__, llvmlite.__version__]
    made_of += [repr(cpu_target.target_context.codegen().magic_tuple())]
    made_of += [f"{name}={getattr(config, name, None)}" for name in SETTINGS]
    return Store(f"cpu-{hashlib.sha256(' '.join(made_of).encode()).hexdigest()[:16]}")


class _Kernel(CPUDispatcher):
    """A compiled function; literal numbers as arguments do not make a specialisation of their own."""

    def get_call_template(self, args: Any, kws: Any) -> Any:
        return super().get_call_template([types.unliteral(kind) for kind in args], kws)

    def compile(self, sig: Any) -> Any:
        with postponed(notice.postpone):
            return super().compile(sig)

    def __call__(self, *arguments: Any) -> Any:
        if self.targetoptions["no_cpython_wrapper"]:
            raise TypeError(f"{self.py_func.__name__} is called by kernels only; for Python, declare it with @kernel(entry=True).")
        return super().__call__(*arguments)

    def typeof_pyval(self, val: Any) -> Any:
        return _typeof(val, None) if isinstance(val, Rows) else super().typeof_pyval(val)  # 11 µs less for each call with rows


class _Linked(_Kernel):
    """A kernel that other kernels call by name.

    The name contains a digest of the function and its argument types, so it means the same in every process, and stored
    machine code links to the right function.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.described: dict[Any, Any] = {}  # types of arguments → how a caller declares it

    def add_overload(self, cres: Any) -> None:
        kinds = cres.signature.args
        name = f"{_PREFIX}{self.py_func.__name__}.{_digest(_identity(self.py_func), kinds)}"
        binding.add_symbol(name, cres.library.get_pointer_to_function(cres.fndesc.llvm_func_name))
        _symbols[name] = _identity(self.py_func), kinds
        self.described[kinds] = described = copy(cres.fndesc)
        described.mangled_name = name
        del self.targetctx._defns[cres.entry_point]  # through which callers would inline the code
        self.targetctx.insert_user_function(cres.entry_point, described)
        super().add_overload(cres)


class _KernelCache(_Cache):
    """The cache that Numba asks before it compiles and hands the result to.

    Numba's own cache keeps index and code in two files that can come from different processes, identifies nested functions by
    their pickles, and checks the date of one source file only.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def cache_path(self) -> str:
        return str(store().writable or "")

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        content = store().load(self._name(sig))
        if content is None:
            return None
        links, reduced = pickle.loads(content)
        if not links.keys() <= _linked.keys():
            return None
        for identity, signatures in links.items():  # before the code that calls them is loaded
            for kinds in signatures:
                _linked[identity].compile(kinds)
        return compiler.CompileResult._rebuild(target_context, *pickle.loads(reduced))

    def save_overload(self, sig: Any, data: Any) -> None:
        rows = [_rows[kind.rows_key] for kind in data.signature.args if isinstance(kind, RowsType)]
        if fingerprint.ONLY_HERE in repr(sig) or any(each.key != each.current_key() for each in rows):
            return  # it would never be found again, or found under another kernel's name
        if data.lifted or data.library.has_dynamic_globals:
            return  # it holds addresses of this process
        links: dict[str, list[Any]] = {}
        for function in data.library._final_module.functions:
            if function.is_declaration and function.name.startswith(_PREFIX):
                identity, kinds = _symbols[function.name]
                links.setdefault(identity, []).append(kinds)
        store().save(self._name(sig), dumps((links, dumps(data._reduce()))))

    def _name(self, sig: Any) -> str:
        return f"{self._function.__name__}-{_digest(_identity(self._function), sig)}"


def _identity(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"  # ends in a digest: see portable.named


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


class _Listener(event.Listener):
    """Tells the notice when Numba compiles one of our kernels."""

    def on_start(self, heard: Any) -> None:
        if isinstance(heard.data["dispatcher"]._cache, _KernelCache):
            notice.begin(store())

    def on_end(self, heard: Any) -> None:
        if isinstance(heard.data["dispatcher"]._cache, _KernelCache):
            notice.end()


event.register("numba:compile", _Listener())


class RowsType(types.Opaque):
    """The Numba type of one :class:`Rows` object, so that loops are compiled with its rows.

    Loops over a type of its own can be stored; with a function argument or a closure they could not. The key contains a digest
    of the rows' code: an edited row is another type, so machine code is never stale.
    """

    def __init__(self, key: str) -> None:
        self.rows_key = key
        super().__init__(f"Rows[{key}]")

    @property
    def rows(self) -> Rows:
        """The object itself."""
        return _rows[self.rows_key]

    def row(self, name: str) -> Callable[..., None]:
        """The row function of this name."""
        return self.rows.rows()[name]


@typeof_impl.register(Rows)
def _typeof(rows: Rows, context: Any) -> RowsType:
    _rows[rows.key] = rows
    if rows.key not in _row_types:
        _row_types[rows.key] = RowsType(rows.key)
    return _row_types[rows.key]


@unbox(RowsType)
def _unbox(typ: RowsType, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


register_model(RowsType)(models.OpaqueModel)
