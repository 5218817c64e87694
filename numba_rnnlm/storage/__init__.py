"""Files that survive: what is written is whole, what is read is checked."""

from .archive import VERSION, ModelFile, model_bytes, open_model, read_about, write_model
from .lock import locked
from .writing import expect_room

__all__ = ["VERSION", "ModelFile", "expect_room", "locked", "model_bytes", "open_model", "read_about", "write_model"]
