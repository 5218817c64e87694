"""What layers do in one step, recorded: their ``forward`` runs once on a backend that notes the verbs instead of computing.

So a layer needs no second description for decoding. What depends on weights alone is computed while it is recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..ops import Array, Shape
from .workspace import aligned

ALIGNMENT = 16  # elements: 64 bytes of float32
# What the recorder knows of an element: DIFFERS, its value changes from step to step; READ, a call that does not write it has used it.
DIFFERS, READ = 1, 2


class NotRecorded(Exception):
    """A layer does something that is no recorded verb, so it is run by the verbs at every step."""


class Traced:
    """An array whose numbers are not known while recording; only views of it can be taken."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    shape = property(lambda self: self.array.shape)
    size = property(lambda self: self.array.size)
    ndim = property(lambda self: self.array.ndim)
    dtype = property(lambda self: self.array.dtype)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> "Traced":
        found = self.array[key]
        if not isinstance(found, np.ndarray):
            raise NotRecorded
        return self._view(found)

    def reshape(self, *shape: Any) -> "Traced":
        return self._view(self.array.reshape(*shape))

    def swapaxes(self, first: int, second: int) -> "Traced":
        return self._view(self.array.swapaxes(first, second))

    def _view(self, array: np.ndarray) -> "Traced":
        if array.size and not np.may_share_memory(array, self.array):  # a copy
            raise NotRecorded
        return Traced(array)

    def __getattr__(self, name: str) -> Any:
        raise NotRecorded

    def _unknown(self, *arguments: Any, **options: Any) -> Any:
        raise NotRecorded

    __array__ = __array_ufunc__ = __array_function__ = __setitem__ = __bool__ = __float__ = __int__ = _unknown
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __neg__ = _unknown
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __lt__ = __le__ = __gt__ = __ge__ = _unknown


class Call(NamedTuple):
    """A verb, its arguments by name, and which arrays it reads and writes."""

    verb: str
    given: Mapping[str, Any]
    reads: Sequence[np.ndarray]
    writes: Sequence[np.ndarray]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.given[name]
        except KeyError:
            raise AttributeError(name) from None


class Recorder:
    """A backend whose verbs are noted.

    Parameters
    ----------
    ops
        The backend that computes what depends on weights only.

    Attributes
    ----------
    calls
        In their order.
    size
        Elements of all arrays that were asked for, which lie one behind the other.
    """

    def __init__(self, ops: Any) -> None:
        self.ops, self.calls, self.size = ops, list[Call](), 0
        self._buffers: list[tuple[int, np.ndarray, np.ndarray]] = []  # (place, array, what is known of each element)

    name = property(lambda self: self.ops.name)
    dtype = property(lambda self: self.ops.dtype)
    threads = property(lambda self: self.ops.threads)

    def empty(self, shape: Shape) -> Traced:
        array = aligned(tuple(shape), np.float32, zeros=True)
        flat = array.reshape(-1)
        self._buffers.append((self.size, flat, np.zeros(flat.size, np.uint8)))
        self.size += -(-flat.size // ALIGNMENT) * ALIGNMENT
        return Traced(array)

    def varying(self, shape: Shape) -> Traced:
        """A new array that others write in every step."""
        traced = self.empty(shape)
        self._buffers[-1][2][:] = DIFFERS
        return traced

    def upload(self, array: Any) -> Array:
        if isinstance(array, Traced):
            raise NotRecorded
        return self.ops.upload(array)

    def copy(self, source: Array, out: Array) -> None:
        self._note("copy", (source, out), [source], [out], source=source, out=out)

    def fill(self, out: Array, value: float) -> None:
        self._note("fill", (out, value), [], [out], out=out, value=value)

    def add(self, x: Array, out: Array, scale: float = 1.0, first: int = 0) -> None:
        source, target = x, out
        if x.size != out.size:  # columns of the wider one
            width = min(x.shape[-1], out.shape[-1])
            source, target = (array.reshape(-1, array.shape[-1]) for array in (x, out))
            source, target = (array[:, first : first + width] if array.shape[-1] > width else array for array in (source, target))
        self._note("add", (x, out, scale, first), [source, target], [target], x=source, out=target, scale=scale)

    def multiply(self, x: Array, y: Array, out: Array, add: bool = False) -> None:
        self._note("multiply", (x, y, out, add), [x, y, *([out] if add else [])], [out], x=x, y=y, out=out, add=add)

    def activate(self, activation: str, x: Array) -> None:
        if activation != "linear":
            self._note("activate", (activation, x), [x], [x], activation=activation, x=x)

    def normalize(
        self, x: Array, gain: Array | None, offset: Array | None, epsilon: float, centred: bool, out: Array, stats: Array
    ) -> None:
        self._note("normalize", (x, gain, offset, epsilon, centred, out, stats), [x, gain, offset], [out, stats],
                   x=x, gain=gain, offset=offset, epsilon=epsilon, centred=centred, out=out, stats=stats)

    def add_positions(self, table: Array, starts: Array, out: Array) -> None:
        self._note("add_positions", (table, starts, out), [table, starts, out], [out], table=table, starts=starts, out=out)

    def project(
        self, x: Array, W: Array, b: Array | None, out: Array, first: int = 0, transposed: bool = False, add: bool = False
    ) -> None:
        self._note("project", (x, W, b, out, first, transposed, add), [x, W, b, *([out] if add else [])], [out],
                   x=x, W=W, b=b, out=out, first=first, transposed=transposed, add=add)

    def convolve(
        self, x: Array, W: Array, b: Array | None, out: Array, stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1
    ) -> None:
        self._note("convolve", (x, W, b, out, stride, dilation, before, groups), [x, W, b], [out],
                   x=x, W=W, b=b, out=out, stride=stride, dilation=dilation, before=before, groups=groups)

    def recur(self, cell: Any, U: Array | None, z: Array, s: Array, w: Array | None = None, lengths: Array | None = None) -> None:
        if lengths is not None or len(z) != 1:
            raise NotRecorded
        self._note("recur", (cell, U, z, s, w), [U, z, s[0], w], [z, s[1:]], cell=cell, U=U, z=z, s=s, w=w)

    def attend(
        self, q: Array, k: Array, v: Array, out: Array, sums: Array, heads: int = 1, scale: float = 1.0, causal: bool = False, window: int = 0,
        held: Array | None = None, w: Array | None = None, rate: float = 0.0, key: int = 0,
    ) -> None:
        if rate or len(q) != 1:
            raise NotRecorded
        self._note("attend", (q, k, v, out, sums, heads, scale, causal, window, held, w), [q, k, v, held, w], [out, sums],
                   q=q, k=k, v=v, out=out, sums=sums, heads=heads, scale=scale, window=window, held=held, w=w)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        raise NotRecorded

    def _note(self, verb: str, arguments: Sequence[Any], reads: Sequence[Any], writes: Sequence[Any], **given: Any) -> None:
        reads, writes = ([_plain(array) for array in arrays if array is not None and array.size] for arrays in (reads, writes))
        if any(self.place(array) is None for array in writes):
            raise NotRecorded  # it changes a weight
        self.calls.append(Call(verb, {name: _plain(value) for name, value in given.items()}, reads, writes))
        # A constant put where a call has read another one before, or into what a stream carries, is put there in every step.
        repeated = any(map(self.varies, reads)) or any(self._known(array).any() for array in writes)
        for array in reads:
            if self._find(array) is not None and not any(np.may_share_memory(array, out) for out in writes):
                self._known(array)[...] |= READ
        if repeated:
            for array in writes:
                self._known(array)[...] |= DIFFERS
        else:
            getattr(self.ops, verb)(*map(_plain, arguments))

    def place(self, array: np.ndarray) -> int | None:
        """Where a view begins among all arrays that were asked for; None if it is none of them."""
        found = self._find(array)
        return None if found is None else found[0]

    def varies(self, array: np.ndarray) -> bool:
        """Whether an array differs from step to step."""
        return bool(self._find(array) is not None and (self._known(array) & DIFFERS).any())

    def _find(self, array: np.ndarray) -> tuple[int, int, np.ndarray] | None:
        """(its place, its place in the buffer, what is known of the buffer's elements)"""
        address = array.__array_interface__["data"][0]
        for start, flat, known in self._buffers:
            offset = (address - flat.__array_interface__["data"][0]) // flat.itemsize
            if 0 <= offset < flat.size:
                return start + offset, offset, known
        return None

    def _known(self, array: np.ndarray) -> np.ndarray:
        found = self._find(array)
        assert found is not None
        return as_strided(found[2][found[1] :], array.shape, [stride // array.itemsize for stride in array.strides])

    def lasting(self, mark: tuple[int, int, int]) -> list[Call]:
        """The calls since a :meth:`mark` that are to be repeated in every step: those that write something that differs."""
        return [call for call in self.calls[mark[0] :] if any(map(self.varies, call.writes))]

    def constants(self) -> list[tuple[int, np.ndarray]]:
        """(place, elements) of the arrays that do not begin as zeros."""
        return [(start, flat) for start, flat, _ in self._buffers if flat.any()]

    def mark(self) -> tuple[int, int, int]:
        """For :meth:`forget`."""
        return len(self.calls), len(self._buffers), self.size

    def forget(self, mark: tuple[int, int, int]) -> None:
        """Undo what was recorded since."""
        del self.calls[mark[0] :], self._buffers[mark[1] :]
        self.size = mark[2]


def _plain(value: Any) -> Any:
    return value.array if isinstance(value, Traced) else value
