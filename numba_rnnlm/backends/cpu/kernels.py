"""How a kernel is compiled, how it is stored for the next process, and how a cell or a rule travels into one."""

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

SETTINGS = "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT"  # settings of Numba that change kernels
CODE = [portable.CODE]  # digests of all code that may become part of a kernel; the package adds its own
_PREFIX = "numba_rnnlm."

_rows: dict[str, Rows] = {}
_row_types: dict[str, "RowsType"] = {}
_linked: dict[str, "_Linked"] = {}
_symbols: dict[str, tuple[str, Any]] = {}  # what is behind a name: which function, and the types of its arguments


def kernel(
    function: Callable[..., Any] | None = None, *, allocates: bool = False, linked: bool = False, entry: bool = False
) -> Any:
    """Compile on first use, without the GIL, and store the machine code for the next process.

    Parameters
    ----------
    function
        No fast-math flag is set: the compiler rounds each operation as it is written, so a kernel gives the same bits on every
        processor. Sums that should be fast are written in lanes, see :mod:`.sums`; products and sums that should be one
        rounding, with :func:`numba_rnnlm.portable.fma`.
    allocates
        Whether it makes arrays. Only then are references to arrays counted: the counters are shared, and threads that slice the
        same array would wait for one another.
    linked
        Whether its callers call it by its name instead of taking its code in. What is large and called with much to do is
        then compiled once, not once for each caller.
    entry
        Whether Python calls it, and not only other kernels. Without what takes arguments out of Python's objects, kernels take
        a third less time to compile.
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
    """Where kernels of this version of the library, Numba and processor are."""
    made_of = [*CODE, sys.implementation.cache_tag, numba.__version__, llvmlite.__version__]
    made_of += [repr(cpu_target.target_context.codegen().magic_tuple())]
    made_of += [f"{name}={getattr(config, name, None)}" for name in SETTINGS]
    return Store(f"cpu-{hashlib.sha256(' '.join(made_of).encode()).hexdigest()[:16]}")


class _Kernel(CPUDispatcher):
    """A compiled function; a call with a literal number takes the same code as one with any other number."""

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

    The name holds a digest of the function and of its arguments' types, so it means the same in each process, and machine code
    from the store finds the right function behind it.
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
        del self.targetctx._defns[cres.entry_point]  # by which callers would take the code in
        self.targetctx.insert_user_function(cres.entry_point, described)
        super().add_overload(cres)


class _KernelCache(_Cache):
    """What Numba asks before it compiles, and tells afterwards.

    Numba's own cache keeps an index and the code in two files that can come from two processes, knows functions inside functions by
    what pickle makes of them, and looks at the date of one source file.
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
            return  # nobody would find it again, or find it by another's name
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
    return f"{function.__module__}.{function.__qualname__}"  # which ends in a digest: see portable.named


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


class _Listener(event.Listener):
    """Hears of everything that Numba compiles in this process."""

    def on_start(self, heard: Any) -> None:
        if isinstance(heard.data["dispatcher"]._cache, _KernelCache):
            notice.begin(store())

    def on_end(self, heard: Any) -> None:
        if isinstance(heard.data["dispatcher"]._cache, _KernelCache):
            notice.end()


event.register("numba:compile", _Listener())


class RowsType(types.Opaque):
    """The Numba type of one :class:`Rows` object: its rows are known when a loop over them is compiled.

    A type of its own, not a function argument or a closure, is what lets the loop be stored. The key carries a digest of the
    rows' code: an edited row is another type, so machine code is never stale.
    """

    def __init__(self, key: str) -> None:
        self.rows_key = key
        super().__init__(f"Rows[{key}]")

    @property
    def rows(self) -> Rows:
        """The object itself."""
        return _rows[self.rows_key]

    def row(self, name: str) -> Callable[..., None]:
        """Its function of this name."""
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
