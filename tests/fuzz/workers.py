"""Processes that run cases by their numbers, and the command line: see the package."""

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
REPORTED = 10.0  # seconds between two lines of progress
MOST_DEATHS = 20
OUTCOMES = ("read", "refused", "crashes")

context = multiprocessing.get_context("spawn")


def work(kind: str, here: Path, first: int, stop: int, step: int, deadline: float, counts: Any, failures: Connection) -> None:
    """Run the cases first, first + step, ... in a process of its own. ``counts`` are the number of the case that runs, and of each outcome."""
    os.chdir(here)
    notice.silence()  # whether a case has to wait for the compiler depends on what ran before
    prepare, run = KINDS[kind]
    prepared = prepare()
    gc.collect()
    gc.freeze()  # what is prepared stays
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
            failures.recv()  # the files have been copied
            watch.clear()
        counts[1 + OUTCOMES.index(outcome)] += 1
    if grown := watch.growth():
        failures.send((None, grown))
        failures.recv()
    failures.close()


@dataclass
class Worker:
    """A process with its share of the cases, in a folder of its own."""

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
        """Failures that it has told of since; the files of each lie in its folder until the next is asked for."""
        with contextlib.suppress(EOFError, OSError):
            while self.failures.poll():
                yield self.failures.recv()
                self.failures.send("next")

    def death(self) -> tuple[int, str]:
        """The case in which the process has died, and what is known of it. The cases behind it are left."""
        trace = (self.here / "trace").read_text(errors="replace") if (self.here / "trace").exists() else ""
        number, self.first = self.counts[0], self.counts[0] + self.step
        return number, f"the process has died, exit code {self.process.exitcode}\n{trace}"


def run(kind: str, first: int, stop: int, seconds: float | None, processes: int, keep: Path | None) -> dict[str, Any]:
    """Run cases in several processes, print each failure as it comes; → figures."""
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
                gone = not worker.process.is_alive()
                found = list(worker.failed()) if gone else worker.failed()
                for number, trace in found:
                    failures += 1
                    tell(kind, number, trace, worker.here / "case", keep)
                if gone and worker.process.exitcode:
                    failures += 1
                    tell(kind, *worker.death(), worker.here / "case", keep)
                    if failures < MOST_DEATHS and worker.first < worker.stop:
                        worker.start()
                        continue
                if gone:
                    running.remove(worker)
            if time.time() - shown > REPORTED:
                shown = time.time()
                print(json.dumps(figures(kind, workers, failures, started)), file=sys.stderr, flush=True)
    return {"first": first, **figures(kind, workers, failures, started)}


def figures(kind: str, workers: list[Worker], failures: int, started: float) -> dict[str, Any]:
    counts = [sum(worker.counts[1 + index] for worker in workers) for index in range(len(OUTCOMES))]
    return {"kind": kind, "cases": sum(counts), **dict(zip(OUTCOMES, counts, strict=True)), "failures": failures,
            "seconds": round(time.time() - started, 1)}


def tell(kind: str, number: int | None, trace: str, files: Path, keep: Path | None) -> None:
    name = f"case {number}" if number is not None else "all cases"
    print(f"{name}:\n{trace}", flush=True)
    if keep is not None:
        where = keep / f"{kind}-{number}"
        shutil.copytree(files, where, dirs_exist_ok=True, symlinks=True)
        (where / "failure.txt").write_text(trace, encoding="utf-8", errors="backslashreplace")


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Spoil files and read them.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cases", type=int, help="how many (default: 1000, or as many as --seconds allow)")
    parser.add_argument("--seconds", type=float, help="how long to go on")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--failures", type=Path, metavar="FOLDER", help="where to put the files of cases that fail")
    options = parser.parse_args()
    cases = options.cases or (10**12 if options.seconds else 1000)
    found = run(options.kind, options.first, options.first + cases, options.seconds, min(options.processes, cases), options.failures)
    print(json.dumps(found))
    return 1 if found["failures"] else 0

