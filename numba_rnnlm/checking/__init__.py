"""Checks for your own layers and cells, the same that the tests of this library apply to the built-in ones.

They are available as ``numba_rnnlm.layers.check`` and ``numba_rnnlm.cells.check``.
"""

from . import cell, layer

__all__ = ["cell", "layer"]
