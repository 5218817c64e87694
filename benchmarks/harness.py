"""Times libraries alternately, each in a process of its own, and writes medians, spreads and the computer's description as JSON."""

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from numba_rnnlm import backends

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
OURS = "numba_rnnlm"

DEVICE = "nvidia-h100-80gb-hbm3"
TRACKED = {  # result files that tables and documents are made from → the only command that may write them
    "training": "training --cells lstm gru tanh --peer torch",
    "training-bf16": "training --rows zaremba-small zaremba-medium --precision bf16",
    "listing": "listing --peer torch --peer keras",
    "generation": "generation --streams 1 64 --weights float32 int8 --peer torch",
    "generation-stacks": "generation --stacks --peer torch",
    "learning-cells": "learning --tables cells",
    "scoring": "scoring --peer torch",
    "startup": "startup --peer torch",
    "memory": "memory --peer torch",
    "scaling": "scaling",
    "defaults": "defaults",
    "serving": "serving --rows char --peer torch --turns 5",
    f"layers-{DEVICE}": "layers --peer torch --turns 3",
    **{f"training-{DEVICE}-{precision}": f"training --backend cuda --precision {precision} --peer torch --turns 5"
       for precision in ("float32", "tf32", "bf16")},
}
FREE = ("peer_python", "out", "result")  # options that do not change what is measured

THREADS = "NUMBA_RNNLM_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"

ASLEEP = 0.3  # seconds; the threads of OpenMP, which PyTorch uses, wait in a loop for 0.2 s after their work

Spread = dict[str, float]  # min, median, max


def environment(threads: int | None) -> dict[str, str]:
    """The environment of measured processes. Without ``threads``, each library uses its default number of threads."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    for variable in THREADS:
        if threads is None:
            variables.pop(variable, None)
        else:
            variables[variable] = str(threads)
    # Some computers pin an old OpenBLAS kernel, which would slow down the peers.
    for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        variables.pop(variable, None)
    return variables


class Contestant:
    """A worker process: it reads a request as a line of JSON, does the work, and answers with a line of JSON.

    ``group`` is the folder of a control group in which the process starts.
    """

    def __init__(
        self, who: str, threads: int | None, python: str = sys.executable, group: Path | None = None
    ) -> None:
        command = [python, "-m", "benchmarks.workers." + ("ours" if who == OURS else who)]
        if group:
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=ROOT,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):  # the worker has ended
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker {self.process.args!r} ended; its error is above.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the worker ended before it read a request
            self.process.stdin.close()
        self.process.wait()


@contextmanager
def contestants(options: argparse.Namespace, threads: int | None = None) -> Iterator[dict[str, Contestant]]:
    """Start the workers of numba_rnnlm and of the peers, and close them at the end."""
    with ExitStack() as stack:
        yield {
            who: stack.enter_context(Contestant(who, threads or options.threads, python_of(options, who)))
            for who in (OURS, *options.peer)
        }


def python_of(options: argparse.Namespace, who: str) -> str:
    """The interpreter that a contestant runs in."""
    return str(sys.executable if who == OURS else options.peer_python)


class Task(Protocol):
    """A task of a worker: the constructor prepares the work and computes the figures that must be equal for all libraries."""

    figures: dict[str, float]

    def step(self) -> object:
        """The work that is timed."""

    def wait(self) -> object:
        """Wait until a device has finished its work."""


class Worker:
    """Answers requests: "check" creates a task, "run" times its step, and any other command is a method of the task."""

    def __init__(self, tasks: Mapping[str, Callable[..., Task]]) -> None:
        self.tasks = tasks

    def __call__(self, command: str, **request: Any) -> dict[str, Any]:
        if command == "check":
            self.task = self.tasks[request.pop("task")](**request)
            self.task.step()
            return self.task.figures | self.run(3)
        answer: dict[str, Any] = self.run(**request) if command == "run" else getattr(self.task, command)(**request)
        return answer

    def run(self, repeat: int) -> dict[str, Any]:
        return {"seconds": timed(self.task.step, repeat, self.task.wait)}


def serve(tasks: Mapping[str, Callable[..., Task]]) -> None:
    """Answer requests until the input ends. Only answers are written to standard output."""
    answers, sys.stdout = sys.stdout, sys.stderr
    worker = Worker(tasks)
    for line in sys.stdin:
        answers.write(json.dumps(worker(**json.loads(line))) + "\n")
        answers.flush()


def timed(step: Callable[[], object], repeat: int, wait: Callable[[], object]) -> float:
    """Mean seconds per step, over ``repeat`` steps."""
    wait()
    start = time.perf_counter()
    for _ in range(repeat):
        step()
    wait()
    return (time.perf_counter() - start) / repeat


def compare(
    players: Mapping[str, Contestant], turns: int, seconds: float, tolerance: float, requests: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Check that the figures of all players are within ``tolerance`` of the first one's, then time the players alternately.

    Each player gets its own request; ``seconds`` is the approximate duration of one turn.
    """
    checks = {who: player.ask(command="check", **requests[who]) for who, player in players.items()}
    ours, *others = players
    expect_equal({who: check | {"seconds": 0} for who, check in checks.items()}, tolerance, str(requests[ours]))
    repeat = max(1, round(seconds / max(check["seconds"] for check in checks.values())))
    found = alternately(players, turns, repeat=repeat)
    return {
        "steps_per_turn": repeat,
        "milliseconds": {who: spread([1000 * value for value in times]) for who, times in found.items()},
        "ratio": {
            who: statistics.median(peer / our for peer, our in zip(found[who], found[ours], strict=True))
            for who in others
        },
    }


def expect_equal(figures: Mapping[str, Mapping[str, float]], tolerance: float, what: str) -> None:
    """End the program unless all figures are within a relative ``tolerance`` of the first player's."""
    first, *others = figures
    for who in others:
        for name, value in figures[first].items():
            if not math.isclose(figures[who][name], value, rel_tol=tolerance):
                raise SystemExit(f"{what}: {name} is {figures[who][name]} for {who}, {value} for {first}.")


def alternately(players: Mapping[str, Contestant], turns: int, **request: Any) -> dict[str, list[float]]:
    """Seconds of each player's turns, in the order A B A B …, so that changes in the computer's speed affect all alike.

    Each turn begins when the threads of the one before are asleep.
    """
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(turns):
        for name, player in players.items():
            time.sleep(ASLEEP if len(players) > 1 else 0)
            seconds[name].append(player.ask(command="run", **request)["seconds"])
    return seconds


def program(who: str, options: argparse.Namespace, *arguments: object, **variables: str) -> tuple[float, dict[str, Any]]:
    """Run a program of :mod:`benchmarks.programs` in a fresh process; return the seconds until it prints its line of JSON, and that line."""
    module = "benchmarks.programs." + ("ours" if who == OURS else who)
    start = time.perf_counter()
    with subprocess.Popen(
        [python_of(options, who), "-m", module, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment(options.threads) | variables,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
    if not line:
        raise SystemExit(f"{process.args!r} ended without an answer; its error is above.")
    return seconds, json.loads(line)


def spread(values: Sequence[float]) -> Spread:
    """Minimum, median, maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def convert(spreads: Mapping[str, Spread], unit: Callable[[float], float]) -> dict[str, Spread]:
    """Convert spreads to another unit."""
    return {who: spread([unit(value) for value in values.values()]) for who, values in spreads.items()}


def describe(label: str, spreads: Mapping[str, Spread], unit: str, ratio: Mapping[str, float] | None = None) -> str:
    """Format one row as a line of text."""
    text = f"{label:32}"
    for who, times in spreads.items():
        text += f"  {who} {times['median']:.4g} {unit} ({times['min']:.4g} to {times['max']:.4g})"
    for who, value in (ratio or {}).items():
        text += f"  {value:.2f}x {who}"
    return text


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def machine(threads: int | None) -> dict[str, Any]:
    """A description of the computer."""
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    return {"processor": name, "threads": threads, "system": platform.system(), "python": platform.python_version(),
            "device": backends.about()["cuda"] if "cuda" in backends.available() else None}


def write_results(
    benchmark: str, options: argparse.Namespace, rows: Sequence[dict[str, Any]], missing: Sequence[str] = (), **about: Any
) -> None:
    """Write the result file that :func:`read` has chosen, if any. ``missing`` names what could not be measured."""
    if options.result is None:
        print("no result file was written: see the first line")
        return
    if missing and tracked(options.result):
        print(f"{options.result} was not written: {', '.join(missing)} could not be measured here")
        return
    if missing:
        about["missing"] = list(missing)
    options.result.parent.mkdir(exist_ok=True)
    results = {"benchmark": benchmark, **about, "machine": machine(options.threads), "rows": rows}
    replace(options.result, json.dumps(results, indent=1) + "\n")
    print("written:", options.result)


def replace(path: Path, text: str) -> None:
    """Replace a file atomically: the old one remains until the new one is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(flags: argparse.ArgumentParser, benchmark: str) -> argparse.Namespace:
    """Parse the options of this run, and add ``result``: the file for the results, or None.

    Ends the program before anything is measured if a peer does not run, or if --out names a file that belongs to another command.
    Without --out, a result file is written only by the command that it belongs to.
    """
    options = flags.parse_args()
    for peer in options.peer:
        expect_peer(peer, options.peer_python, options.threads)
    path = RESULTS / f"{options.out or benchmark}.json"
    command = tracked(path)
    options.result = path
    if (command or not options.out) and not is_command(flags, options, benchmark, command or ""):
        wanted = f"; only `python -m benchmarks.{command}` writes {path.name}" if command else ""
        if options.out:
            raise SystemExit(f"--out is {options.out!r}, but these are not its options{wanted}. Give --out another name. Nothing was measured.")
        print(f"the results will be printed but not written{wanted}; --out NAME writes them to another file")
        options.result = None
    return options


def tracked(path: Path) -> str | None:
    """The only command that may write this result file; None if any may."""
    return TRACKED.get(path.stem) if path.parent.resolve() == RESULTS.resolve() else None


def is_command(flags: argparse.ArgumentParser, options: argparse.Namespace, benchmark: str, command: str) -> bool:
    """Whether this benchmark with these options is ``command``."""
    name, *arguments = shlex.split(command) or [""]
    if name != benchmark:
        return False
    given, wanted = ({key: sorted(value) if key == "peer" else value for key, value in vars(found).items() if key not in FREE}
                     for found in (options, flags.parse_args(arguments)))
    return given == wanted


def expect_peer(peer: str, python: str, threads: int | None) -> None:
    """End the program with a message unless the peer's interpreter can import its worker."""
    try:
        done = subprocess.run([python, "-c", f"import benchmarks.workers.{peer}"], capture_output=True, text=True, cwd=ROOT,
                              env=environment(threads))
    except OSError as error:
        raise SystemExit(f"--peer-python is {python!r}, which does not run: {error.strerror}. Nothing was measured.") from error
    if done.returncode:
        *_, reason = done.stderr.strip().splitlines() or [f"it ended with exit status {done.returncode}"]
        raise SystemExit(f"the peer {peer!r} does not run in {python}: {reason}. Pass an interpreter that has it (and NumPy and Numba) with "
                         "--peer-python, or leave --peer out. Nothing was measured.")


def parser(description: str, peers: Sequence[str] = ("torch",), backends: Sequence[str] = ("cpu",)) -> argparse.ArgumentParser:
    """A parser with the flags of all benchmarks."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--peer", action="append", default=[], choices=peers, help="framework to compare with; may be repeated")
    flags.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers installed")
    flags.add_argument("--threads", type=int, default=2, help="number of threads for every library")
    flags.add_argument("--turns", type=int, default=7, help="number of timed turns for every library")
    flags.add_argument("--backend", default=backends[0], choices=backends, help="backend for every library")
    flags.add_argument("--out", default=None, help="name of the result file in benchmarks/results, without .json")
    return flags
