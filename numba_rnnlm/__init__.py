"""Recurrent neural network language models on NumPy and Numba.

>>> from numba_rnnlm import LanguageModel
>>> model = LanguageModel(cell="lstm", hidden=128, layers=2)        # train on text, score, write
>>> from numba_rnnlm import Sequential                              # or stack layers as in Keras
"""

from importlib.metadata import PackageNotFoundError, version

from . import callbacks, cells, layers, optimizers
from .errors import LanguageModelError
from .language_model import LanguageModel
from .sequential import Sequential

try:
    __version__ = version("numba-rnnlm")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "LanguageModel",
    "LanguageModelError",
    "Sequential",
    "__version__",
    "callbacks",
    "cells",
    "layers",
    "optimizers",
]
