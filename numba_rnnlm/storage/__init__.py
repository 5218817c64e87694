"""Model files: written atomically, and checked thoroughly when they are read."""

from .archive import VERSION, ModelFile, expect_replaceable, file_name, model_bytes, open_model, read_about, write_model
from .lock import Held, locked
from .writing import expect_room

__all__ = ["VERSION", "Held", "ModelFile", "expect_replaceable", "expect_room", "file_name", "locked", "model_bytes", "open_model", "read_about", "write_model"]
