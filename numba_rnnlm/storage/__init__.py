"""Files that survive: what is written is whole, what is read is checked."""

from .checkpoint import VERSION, read_model, write_model

__all__ = ["VERSION", "read_model", "write_model"]
