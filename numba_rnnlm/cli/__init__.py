"""The command line: ``numba-rnnlm train | eval | score | generate | info | warmup | demo``, one module per command."""

from .main import main, parser

__all__ = ["main", "parser"]
