"""Records which errors of the library the tests have raised, and which of their messages they have read."""

import ast
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import numba_rnnlm
from numba_rnnlm import errors

ROOT = Path(numba_rnnlm.__file__).parent
SHOWN = str(ROOT / "cli")  # the command line prints messages, and tests read its output
FAMILY = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.LanguageModelError)}
ELSEWHERE = {  # module → why its errors are not checked
    "backends/cuda": "needs a GPU or its simulator, and has tests there",
}
Place = tuple[str, int]  # file and line

_read: set[Place] = set()
_quoted: deque[tuple[str, set[Place]]] = deque(maxlen=20)  # messages that the library has read in order to quote them in others


def watch() -> None:
    """From now on, record where each error is created once a test reads its message, or a message in which the library quotes it."""

    make = errors.LanguageModelError.__init__

    def init(self, *args):
        make(self, *args)
        frame = sys._getframe(1)
        self._made = {(frame.f_code.co_filename, frame.f_lineno)}.union(
            *(made for text, made in [*_quoted] if text and any(text in str(part) for part in args)))

    def text(self):
        message, made = super(errors.LanguageModelError, self).__str__(), getattr(self, "_made", set())
        asking = sys._getframe(1).f_code.co_filename
        if asking.startswith(str(ROOT)) and not asking.startswith(SHOWN):
            _quoted.append((message, made))
        else:
            _read.update(made)
        return message

    errors.LanguageModelError.__init__, errors.LanguageModelError.__str__ = init, text


def read() -> list[Place]:
    """The places whose messages this process has read so far."""
    return sorted(_read)


def add(places: Iterable[Place]) -> None:
    """Add places whose messages another process has read."""
    _read.update(map(tuple, places))


def places() -> dict[Place, str]:
    """Where the library creates errors: (file, line) → a name for the place."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if any(name.startswith(other) for other in ELSEWHERE):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FAMILY:
                found[str(path), node.lineno] = f"{name}:{node.lineno} {node.func.id}"
    return found


def unread() -> list[str]:
    """The places whose messages no test has read."""
    return [name for place, name in places().items() if place not in _read]
