"""The command line: ``numba-rnnlm train | eval | score | generate | info | warmup | demo``. One module a command."""

from .main import main, parser

__all__ = ["main", "parser"]
