"""Recurrent neural network language models on NumPy and Numba.

>>> from numba_rnnlm import LanguageModel
>>> model = LanguageModel(cell="lstm", hidden=128, layers=2)        # train on text, score, write
>>> from numba_rnnlm import Sequential                              # or stack layers as in Keras
"""

from importlib import metadata

from . import callbacks, cells, checking, layers, optimizers
from .cells import Cell
from .errors import (
    BackendError,
    CheckError,
    ConfigError,
    CorpusError,
    DivergenceError,
    GenerationError,
    LanguageModelError,
    ModelFileError,
    NotFittedError,
    OutOfMemoryError,
    ShapeError,
    TrainingError,
    VocabularyError,
)
from .keras.sequential import Sequential
from .language_model import LanguageModel
from .scoring import Evaluation, TokenScore
from .states import TextState
from .text import Files

layers.check, cells.check = checking.layer.check, checking.cell.check  # they compute on backends, which layers and cells do not know

try:
    __version__ = metadata.version("numba-rnnlm")
except metadata.PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "BackendError",
    "Cell",
    "CheckError",
    "ConfigError",
    "CorpusError",
    "DivergenceError",
    "Evaluation",
    "Files",
    "GenerationError",
    "LanguageModel",
    "LanguageModelError",
    "ModelFileError",
    "NotFittedError",
    "OutOfMemoryError",
    "Sequential",
    "ShapeError",
    "TextState",
    "TokenScore",
    "TrainingError",
    "VocabularyError",
    "__version__",
    "callbacks",
    "cells",
    "layers",
    "optimizers",
]
