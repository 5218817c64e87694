"""Files put safely on disk: replaced atomically, and locked while a job writes them."""

from .lock import Held, locked
from .writing import expect_room

__all__ = ["Held", "expect_room", "locked"]
