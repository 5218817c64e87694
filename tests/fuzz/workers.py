"""Worker processes that run cases by number, and the command line; see the package."""

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from numba_rnnlm.backends.compiling import notice

from . import conduct, corpora, model_files

KINDS: dict[str, tuple[Callable[[], Any], Callable[[conduct.Case, Any], bool]]] = {
    "models": (model_files.bases, model_files.model_case),
    "corpora": (corpora.models, corpora.corpus_case),
    "line": (corpora.models, corpora.line_case),
}
SHARED = "/dev/shm"  # files in memory
REPORTED = 10.0  # seconds between progress reports
MOST_DEATHS = 20
OUTCOMES = ("read", "rejected", "crashes")

context = multiprocessing.get_context("spawn")


def work(kind: str, here: Path, first: int, stop: int, step: int, deadline: float, counts: Any, failures: Connection) -> None:
    """Run the cases first, first + step, ... in this process. ``counts`` holds the number of the running case, then the count of each outcome."""
    os.chdir(here)
    notice.silence()  # whether it appears depends on which kernels earlier cases have compiled
    prepare, run = KINDS[kind]
    prepared = prepare()
    gc.collect()
    gc.freeze()  # the prepared objects are never freed
    watch = conduct.Watch(here / "case", here / "trace")
    for number in range(first, stop, step):
        if time.time() >= deadline:
            break
        counts[0] = number
        try:
            outcome = watch.attempt(run, prepared, number)
        except Exception:
            outcome, trace = "crashes", traceback.format_exc()
        if outcome == "crashes":
            failures.send((number, trace))
            failures.recv()  # the parent has copied the files
            watch.clear()
        counts[1 + OUTCOMES.index(outcome)] += 1
    if grown := watch.growth():
        failures.send((None, grown))
        failures.recv()
    failures.close()


@dataclass
class Worker:
    """A process that runs its share of the cases in its own folder."""

    kind: str
    here: Path
    first: int
    stop: int
    step: int
    deadline: float
    counts: Any = field(default_factory=lambda: context.RawArray("q", 4))

    def start(self) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        (self.here / "case").mkdir(parents=True)
        self.failures, other = context.Pipe()
        self.process = context.Process(
            target=work, args=(self.kind, self.here, self.first, self.stop, self.step, self.deadline, self.counts, other)
        )
        self.process.start()
        other.close()

    def failed(self) -> Iterator[tuple[int | None, str]]:
        """Yield the failures that the process has reported since; the files of each remain in its folder until the next is requested."""
        with contextlib.suppress(EOFError, OSError):
            while self.failures.poll():
                yield self.failures.recv()
                self.failures.send("next")

    def death(self) -> tuple[int, str]:
        """The case in which the process died, and its traceback. The process can be restarted with the following cases."""
        trace = (self.here / "trace").read_text(errors="replace") if (self.here / "trace").exists() else ""
        number, self.first = self.counts[0], self.counts[0] + self.step
        return number, f"the process has died, exit code {self.process.exitcode}\n{trace}"


def run(kind: str, first: int, stop: int, seconds: float | None, processes: int, keep: Path | None) -> dict[str, Any]:
    """Run cases in several processes, print failures as they occur, and return statistics."""
    started, shown, failures = time.time(), time.time(), 0
    deadline = started + seconds if seconds else float("inf")
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=SHARED if os.access(SHARED, os.W_OK) else None) as here:
        workers = [Worker(kind, Path(here, str(index)), first + index, stop, processes, deadline) for index in range(processes)]
        for worker in workers:
            worker.start()
        running = list(workers)
        while running:
            wait([what for worker in running for what in (worker.failures, worker.process.sentinel)], REPORTED)
            for worker in list(running):
                has_ended = not worker.process.is_alive()
                found = list(worker.failed()) if has_ended else worker.failed()
                for number, trace in found:
                    failures += 1
                    report(kind, number, trace, worker.here / "case", keep)
                if has_ended and worker.process.exitcode:
                    failures += 1
                    report(kind, *worker.death(), worker.here / "case", keep)
                    if failures < MOST_DEATHS and worker.first < worker.stop:
                        worker.start()
                        continue
                if has_ended:
                    running.remove(worker)
            if time.time() - shown > REPORTED:
                shown = time.time()
                print(json.dumps(figures(kind, workers, failures, started)), file=sys.stderr, flush=True)
    return {"first": first, **figures(kind, workers, failures, started)}


def figures(kind: str, workers: list[Worker], failures: int, started: float) -> dict[str, Any]:
    counts = [sum(worker.counts[1 + index] for worker in workers) for index in range(len(OUTCOMES))]
    return {"kind": kind, "cases": sum(counts), **dict(zip(OUTCOMES, counts, strict=True)), "failures": failures,
            "seconds": round(time.time() - started, 1)}


def report(kind: str, number: int | None, trace: str, files: Path, keep: Path | None) -> None:
    name = f"case {number}" if number is not None else "all cases"
    print(f"{name}:\n{trace}", flush=True)
    if keep is not None:
        folder = keep / f"{kind}-{number}"
        shutil.copytree(files, folder, dirs_exist_ok=True, symlinks=True)
        (folder / "failure.txt").write_text(trace, encoding="utf-8", errors="backslashreplace")


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Damage files and read them.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cases", type=int, help="number of cases (default: 1000, or as many as --seconds allow)")
    parser.add_argument("--seconds", type=float, help="how long to run")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--failures", type=Path, metavar="FOLDER", help="where to save the files of failed cases")
    options = parser.parse_args()
    cases = options.cases or (10**12 if options.seconds else 1000)
    found = run(options.kind, options.first, options.first + cases, options.seconds, min(options.processes, cases), options.failures)
    print(json.dumps(found))
    return 1 if found["failures"] else 0

