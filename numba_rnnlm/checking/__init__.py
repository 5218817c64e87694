"""Checks of a layer or a cell of your own: what the tests of this library check for its own ones.

The package attaches them where one looks for them: ``numba_rnnlm.layers.check`` and ``numba_rnnlm.cells.check``.
"""

from . import cell, layer

__all__ = ["cell", "layer"]
