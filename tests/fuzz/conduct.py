"""Rules for cases: what they may leave behind, use and print."""

import contextlib
import faulthandler
import gc
import io
import mmap
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from checks import HANG

from numba_rnnlm import cli
from numba_rnnlm.errors import LanguageModelError

LINUX = sys.platform == "linux"
MEMORY = 10**9  # bytes that all cases together may allocate
WORK = 30  # seconds of processor time after which a case counts as endless; the longest of 4,500 took 0.6
MEASURED = 50  # cases between two measurements of memory
PARTS = 5  # parts of the second half of all cases; a leak grows in every part, but compiling, caching or importing in one only
BYTES, OBJECTS = (1e6, 100.0), (300.0, 0.02)  # allowed growth per part, and per case; caches that still fill take 200 objects in 250 cases
LONGEST = 2000  # characters of a message or of one of its lines
ABOUT_TEXT = ("the run in ", "the training so far ", "the corpus has ", " has symbols that are not in the model's vocabulary ",
              " carriage returns ", " has many bytes that are zero", " characters long on average", " not in the model's vocabulary: ",
              " read as text", " read as lines of text", " has symbols that are not in the model's vocabulary: ",
              " too short to hold out ")  # parts of the warnings that are allowed
# Control characters except tab and line feed, characters that change the writing direction, and lone surrogates.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Random = random.Random


class Stream(io.TextIOWrapper):
    """A standard stream in memory that behaves like a terminal or a pipe."""

    def __init__(self, terminal: bool, data: bytes = b"") -> None:
        super().__init__(io.BytesIO(data), "utf-8", "backslashreplace", newline="")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def data(self) -> bytes:
        self.flush()
        return self.buffer.getvalue()  # type: ignore[attr-defined]


class Case:
    """One case, whose current folder is empty.

    Attributes
    ----------
    number
        The number that reproduces the case.
    random
        The source of all random decisions.
    files
        Files that it has put into the folder, or expects there.
    messages
        All messages: errors, warnings, and what commands report.
    shown
        Other output of commands to a terminal.
    """

    def __init__(self, number: int) -> None:
        self.number, self.random = number, Random(number)
        self.files: set[str] = set()
        self.messages: list[str] = []
        self.shown: list[str] = []

    def put(self, name: str, data: bytes) -> str:
        """Write a file into the folder, and return its name."""
        self.files.add(name)
        if os.path.dirname(name):
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "wb") as file:
            file.write(data)
        return name

    def run(self, *arguments: str, stdin: bytes = b"") -> bool:
        """Run a command of numba-rnnlm on a terminal or in a pipe; return whether it succeeded."""
        terminal = self.random.random() < 0.7
        out, err, into = Stream(terminal), Stream(terminal), Stream(False, stdin)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _redirected_stdin(into):
            code = cli.main(arguments)
        reported, answer = err.data().decode(), out.data()
        contradicts = code == 2 and "the run in " in reported  # the settings differ from those of the checkpoint
        assert code in (0, 1, 3) or contradicts, f"exit code {code}: {reported}"
        assert reported or code != 1, "an error without a message"
        assert "MemoryError" not in reported and "Unable to allocate" not in reported, "the memory is exhausted"
        self.messages += reported.splitlines()
        if arguments[0] in ("generate", "score"):
            self.shown += [answer.decode("utf-8")] if terminal or "--json" in arguments else []
        else:
            self.messages += answer.decode("utf-8").split("\n") if "--json" not in arguments else []
        return code == 0


@contextlib.contextmanager
def _redirected_stdin(stream: TextIO) -> Iterator[None]:
    before, sys.stdin = sys.stdin, stream
    try:
        yield
    finally:
        sys.stdin = before


class Watch:
    """Runs cases one after the other in the folder ``here``, and checks the side effects of each.

    ``traces`` is the file for the traceback of a case that hangs.
    """

    def __init__(self, here: Path, traces: Path) -> None:
        os.chdir(here)
        tempfile.tempdir = str(here)
        self.warned: list[str] = []
        warnings.simplefilter("always")
        warnings.showwarning = self._showwarning
        self.printed = sys.stdout = sys.stderr = Stream(False)
        self.traces = open(traces, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
        for name in ("SIGPROF", "SIGALRM") if hasattr(signal, "setitimer") else ():  # the signal then ends the process
            faulthandler.register(getattr(signal, name), self.traces, all_threads=True, chain=True)
        limit_memory()
        self.handles = self._handles()
        self.count = 0
        self.memory: list[tuple[int, int]] = []  # bytes and objects

    def _showwarning(self, message: Any, *rest: Any, **named: Any) -> None:
        self.warned.append(str(message))

    @staticmethod
    def _handles() -> tuple[int, int]:
        """The number of open files and of threads."""
        if not LINUX:
            return 0, threading.active_count()
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def attempt(self, run: Callable[[Case, Any], bool], prepared: Any, number: int) -> str:
        """Run one case; return "read" or "rejected". Anything else raises an exception and leaves the files of the case in place."""
        case = Case(number)
        self.warned.clear()
        _limit_time(WORK, HANG)
        try:
            outcome = "read" if run(case, prepared) else "rejected"
        except LanguageModelError as error:
            outcome = "rejected"
            case.messages += _messages(error)
        finally:
            _limit_time(0, 0)
        case.messages += self.warned
        self._look(case)
        self.count += 1
        if self.count % MEASURED == 0:
            gc.collect()
            self.memory.append((_pages()[1], sys.getallocatedblocks()))
        return outcome

    def _look(self, case: Case) -> None:
        odd = [message for message in self.warned if not any(known in message for known in ABOUT_TEXT)]
        assert not odd, f"warnings were shown: {odd}"
        printed = self.printed.data()
        assert not printed, f"something was printed: {printed[:1000]!r}"
        for message in case.messages:
            assert len(message) <= LONGEST, f"a message of {len(message):,} characters: {message[:300]!a}"
        for text in (*case.messages, *case.shown):
            found = CONTROL.search(text)
            assert found is None, f"{found[0]!a} in {text[max(0, found.start() - 200) : found.end() + 200]!a}"
        left = {os.path.join(folder, file)[2:] for folder, _, files in os.walk(".") for file in files} - case.files
        assert not left, f"files were left: {left}"
        _empty_folder()
        if self._handles() != self.handles:
            gc.collect()
            handles, self.handles = self.handles, self._handles()
            assert handles == self.handles, f"open files and threads: {handles} before, {self.handles} after"

    def clear(self) -> None:
        """Clean up after a case that failed."""
        self.printed = sys.stdout = sys.stderr = Stream(False)
        _empty_folder()
        gc.collect()
        self.handles = self._handles()

    def growth(self) -> str:
        """A sentence about the growth of memory over the cases; empty if it does not grow."""
        half = self.memory[len(self.memory) // 2 :]
        step = len(half) // PARTS
        if not step:
            return ""
        parts = half[:: step][: PARTS + 1]
        for index, (what, (fixed, each)) in enumerate((("bytes", BYTES), ("objects", OBJECTS))):
            grown = [after[index] - before[index] for before, after in pairwise(parts)]
            if len(grown) == PARTS and min(grown) > fixed + each * step * MEASURED:
                return f"with every {step * MEASURED:,} cases the memory grows by {grown} {what}"
        return ""


def _empty_folder() -> None:
    for entry in list(os.scandir()):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _messages(error: BaseException) -> list[str]:
    """The messages that Python prints for an uncaught exception: its own, and those of its causes."""
    messages, found = [], error
    while True:
        messages += str(found).split("\n") if found is not error else [str(found)]
        assert not isinstance(found, MemoryError), "the memory is exhausted"
        cause = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
        if cause is None:
            return messages
        found = cause


def _limit_time(work: float, patience: float) -> None:
    """Limit the remaining seconds of processor time and of wall-clock time of the process; 0 removes a limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, work)
        signal.setitimer(signal.ITIMER_REAL, patience)


def _pages() -> tuple[int, int]:
    """Bytes of memory that this process has reserved and that it uses; 0 if unknown."""
    if not LINUX:
        return 0, 0
    with open("/proc/self/statm", encoding="ascii") as file:
        reserved, used = map(int, file.read().split()[:2])
    return reserved * mmap.PAGESIZE, used * mmap.PAGESIZE


def limit_memory() -> None:
    """Limit memory to what is reserved now plus MEMORY, where the system supports it."""
    if LINUX:
        import resource

        most = _pages()[0] + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
