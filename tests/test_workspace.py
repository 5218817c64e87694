"""Memory for intermediate results is large enough, disjoint, and reused."""

import threading

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from numba_rnnlm.backends.cpu.workspace import ALIGNMENT, Workspace, aligned

sizes = st.integers(0, 70)
shapes = st.lists(sizes, min_size=1, max_size=3).map(tuple)
kinds = st.sampled_from([np.float32, np.float64, np.int32])


def extent(array):
    """(first byte, last byte) of an array, or of the memory behind a view."""
    return array.ctypes.data, array.ctypes.data + array.nbytes


@given(shapes, kinds)
def test_aligned_memory(shape, kind):
    array = aligned(shape, kind)
    first, last = extent(array.base)
    assert (array.shape, array.dtype) == (shape, kind)
    assert array.size == 0 or array.ctypes.data % ALIGNMENT == 0
    assert first <= array.ctypes.data and extent(array)[1] <= last


@given(st.lists(st.tuples(st.sampled_from("abc"), shapes, kinds), min_size=1, max_size=8))
@example([("a", (0, 0), np.float32)])
def test_arrays_are_large_enough_and_disjoint(calls):
    workspace, held = Workspace(), {}
    for name, shape, kind in calls:
        array = held[name, kind] = workspace.take(name, shape, kind)
        *rows, width = shape
        assert array.dtype == kind and array.shape[:-1] == tuple(rows) and array.shape[-1] >= width
        assert array.size == 0 or array.ctypes.data % ALIGNMENT == 0
        assert not rows or array.size == 0 or array.strides[-2] % ALIGNMENT == 0
    for number, array in enumerate(held.values()):
        array[...] = number
    for number, array in enumerate(held.values()):
        assert (array == number).all()


def test_memory_is_reused_if_it_is_large_enough():
    workspace = Workspace()
    first = workspace.take("a", (10, 100), np.float32)
    assert extent(workspace.take("a", (10, 100), np.float32)) == extent(first)
    assert np.shares_memory(workspace.take("a", (9, 100), np.float32), first)
    assert not np.shares_memory(workspace.take("a", (11, 128), np.float32), first)
    assert not np.shares_memory(workspace.take("b", (10, 100), np.float32), first)


def test_every_python_thread_has_its_own_memory():
    workspace, found = Workspace(), []
    own = workspace.take("a", (8,), np.float32)
    thread = threading.Thread(target=lambda: found.append(workspace.take("a", (8,), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(found[0], own)
