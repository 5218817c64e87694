"""Reading and writing one symbol after the other, the state carried along: the cost of each is constant."""

from .write import following, generate, generate_batch, read

__all__ = ["following", "generate", "generate_batch", "read"]
