"""Where compiled kernels are kept."""

import os
import sys

from numba import config


def cache_folder() -> str:
    """Numba's NUMBA_CACHE_DIR, or a folder of our own among the user's caches.

    Not beside the source, as Numba does by default: files that an installer does not know of would survive
    the package, and an import would take what they leave behind for it.
    """
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        return str(config.CACHE_DIR)  # type: ignore[attr-defined]
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # a user without a home: Numba's own choice
        return ""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.path.join(base, "numba_rnnlm")
