"""Which of the library's errors the tests have met, and of which they have read the words."""

import ast
import sys
from pathlib import Path

import numba_rnnlm
from numba_rnnlm import errors

ROOT = Path(numba_rnnlm.__file__).parent
FAMILY = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.LanguageModelError)}
ELSEWHERE = {  # module → why its errors are not met here
    "backends/cuda": "needs a GPU or its simulator, and has tests there",
}

_read: set[tuple[str, int]] = set()


def watch() -> None:
    """From now on, note each error where it is made, once somebody asks for its text."""

    make = errors.LanguageModelError.__init__

    def init(self, *args):
        make(self, *args)
        frame = sys._getframe(1)
        self._made = frame.f_code.co_filename, frame.f_lineno

    def text(self):
        _read.add(getattr(self, "_made", ("", 0)))
        return super(errors.LanguageModelError, self).__str__()

    errors.LanguageModelError.__init__, errors.LanguageModelError.__str__ = init, text


def places() -> dict[tuple[str, int], str]:
    """Where the library makes an error: (file, line) → what to call the place."""
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
    """The places whose words no test has read."""
    return [name for place, name in places().items() if place not in _read]
