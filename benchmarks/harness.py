"""Two contestants in turns, each in a process of its own; medians, spreads and the machine, as JSON."""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba_rnnlm import backends

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent


class Contestant:
    """A worker process: it takes a line of JSON, does the work, answers with a line of JSON."""

    def __init__(self, module: str, threads: int, python: str = sys.executable) -> None:
        environment = os.environ | {
            "NUMBA_RNNLM_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        # Some machines pin an old OpenBLAS kernel; no contestant should be slowed by it.
        for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
            environment.pop(variable, None)
        self.process = subprocess.Popen(
            [python, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker {self.process.args} ended; its error is above.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(handle: Callable[..., dict[str, Any]]) -> None:
    """The worker's side: answer each request until the input ends. Only answers go to standard output."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(handle(**json.loads(line))) + "\n")
        answers.flush()


def timed(step: Callable[[], object], repeat: int, wait: Callable[[], object]) -> float:
    """Seconds of one step, the mean of ``repeat``; ``wait`` returns when a device has done what it was given."""
    wait()
    start = time.perf_counter()
    for _ in range(repeat):
        step()
    wait()
    return (time.perf_counter() - start) / repeat


def compare(
    players: dict[str, Contestant], turns: int, seconds: float, tolerance: float, requests: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """First the same figures for all, within ``tolerance`` of the first player's, then the time in turns.

    Each player gets its own request; ``seconds`` is about what one turn takes.
    """
    checks = {who: player.ask(command="check", **requests[who]) for who, player in players.items()}
    ours, *others = checks
    for who in others:
        for figure, value in checks[ours].items():
            if figure != "seconds" and not math.isclose(checks[who][figure], value, rel_tol=tolerance):
                raise SystemExit(f"{requests[who]}: {figure} is {checks[who][figure]} for {who}, {value} for {ours}.")
    repeat = max(1, round(seconds / max(check["seconds"] for check in checks.values())))
    found = in_turns(players, turns, repeat=repeat)
    return {
        "steps_per_turn": repeat,
        "milliseconds": {who: spread([1000 * value for value in times]) for who, times in found.items()},
        "ratio": {
            who: statistics.median(peer / our for peer, our in zip(found[who], found[ours], strict=True))
            for who in others
        },
    }


@contextmanager
def contestants(workers: dict[str, str], threads: int, python: dict[str, str]) -> Iterator[dict[str, Contestant]]:
    """Start each worker module; close them all at the end."""
    started = {name: Contestant(module, threads, python.get(name, sys.executable)) for name, module in workers.items()}
    try:
        yield started
    finally:
        for contestant in started.values():
            contestant.close()


def in_turns(players: dict[str, Contestant], turns: int, **request: Any) -> dict[str, list[float]]:
    """Seconds of each player's turns, A B A B …, so that a drift of the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(turns):
        for name, player in players.items():
            seconds[name].append(player.ask(command="run", **request)["seconds"])
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median, maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    return {"processor": name, "threads": threads, "system": platform.system(), "python": platform.python_version(),
            "device": backends.about()["cuda"] if "cuda" in backends.available() else None}


def write_results(name: str, results: dict[str, Any]) -> Path:
    """results/<name>.json"""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def parser(description: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--peer", action="append", default=[], help="compare with this framework in turns: torch")
    flags.add_argument("--peer-python", default=sys.executable, help="the interpreter that has the peer installed")
    flags.add_argument("--threads", type=int, default=2, help="for everyone")
    flags.add_argument("--turns", type=int, default=7, help="timed turns of each contestant")
    flags.add_argument("--backend", default="cpu", choices=["cpu", "cuda"], help="where everyone computes")
    flags.add_argument("--out", default=None, help="name of the result file in benchmarks/results, without .json")
    return flags
