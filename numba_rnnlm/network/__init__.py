"""A stack of layers as shapes and names (`Graph`), and at work with its numbers on a backend (`Network`)."""

from .graph import Graph
from .network import Network
from .state import State

__all__ = ["Graph", "Network", "State"]
