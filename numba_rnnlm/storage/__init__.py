"""Files that survive: what is written is whole, what is read is checked."""

from .archive import VERSION, ModelFile, open_model, read_about, write_model

__all__ = ["VERSION", "ModelFile", "open_model", "read_about", "write_model"]
