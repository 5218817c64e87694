"""Response times on a shared computer: milliseconds until 1, 20 or 100 symbols are generated.

    python -m benchmarks.serving
    python -m benchmarks.serving --peer torch --peer-python /path/to/python
    python -m benchmarks.serving --rows zaremba-medium --situations quiet "2 busy" --lengths 20
    python -m benchmarks.serving --situations "quota 1" "quota 0.5"

The contestants are numba_rnnlm with default settings, with one thread, and with one thread per processor, and the peers with default
settings. They are timed alternately in each situation: quiet; after 10 ms and 3 s of rest; next to 1 and 2 busy processes;
and with many client threads at once. Ratios are medians over turns. Then the speed of training and scoring next to busy processes
is compared with the quiet speed, scaled by the share of processor time that a scheduler fair to threads would give.

Quotas are measured only if --situations names them: for each contestant, they create a control group in /sys/fs/cgroup, which only
root can do, and remove it afterwards.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from .generation import expect_same_ids
from .harness import OURS, Contestant, expect_equal, parser, python_of, read, write_results
from .shapes import Row, chosen, model_flags

SECONDS = 0.15  # approximate duration of one turn
CLIENT_SECONDS = 0.5
WORK_SECONDS = 0.5  # duration of one turn of training or scoring
RESTED = 20  # symbols per request after a long rest, and with many clients
REST = {"after 10 ms": 0.01, "after 3 s": 3.0}
BUSY = {"1 busy": 1, "2 busy": 2}
QUOTAS = {"quota 1": 1.0, "quota 0.5": 0.5}
CLIENTS = {f"{number} clients": number for number in (1, 8, 32, 100)}
WORK = {"training": {"precision": "float32"}, "scoring": {"sentences": 200}}
UNASKED = ["quiet", *REST, *BUSY, *CLIENTS, *WORK]
PERIOD = 100_000  # microseconds
ONE = "1 thread"

Players = dict[str, Contestant]


def main() -> None:
    flags = parser("Time requests on a shared computer.")
    flags.set_defaults(threads=os.cpu_count())
    model_flags(flags, rows=["tiny", "char", "zaremba-medium"])
    flags.add_argument("--situations", nargs="*", default=UNASKED, choices=[*UNASKED, *QUOTAS],
                       help="what happens around the requests; a quota creates control groups in /sys/fs/cgroup, as root (default: all but quotas)")
    flags.add_argument("--lengths", nargs="*", type=int, default=[1, 20, 100], help="symbols per request")
    options = read(flags, "serving")
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for quota in (None, *QUOTAS):
        situations = [name for name in options.situations if (name in QUOTAS) == bool(quota) and quota in (None, name)]
        if situations:
            with players_of(options, quota) as players:
                missing += [] if players else situations
                for row in chosen(options) if players else []:
                    for found in measure(players, row, situations, options):
                        rows.append(row.about() | found)
                        print(f"{row.name + ' ' + row.cell:22}{describe(found)}", flush=True)
    write_results("serving", options, rows, missing)


@contextmanager
def players_of(options: argparse.Namespace, quota: str | None) -> Iterator[Players]:
    """Start the contestants, each under the quota; none if control groups cannot be created."""
    with ExitStack() as stack:
        settings = {OURS: None, ONE: 1, f"{options.threads} threads": options.threads, **dict.fromkeys(options.peer)}
        groups: dict[str, Path | None] = dict.fromkeys(settings)
        if quota:
            groups |= {who: stack.enter_context(control_group(QUOTAS[quota])) for who in settings}
            if None in groups.values():
                print(f"{quota}: not measured, because control groups cannot be created here")
                yield {}
                return
        yield {
            who: stack.enter_context(Contestant(
                who if who in options.peer else OURS, threads,
                python_of(options, who if who in options.peer else OURS), groups[who]))
            for who, threads in settings.items()
        }


@contextmanager
def control_group(processors: float) -> Iterator[Path | None]:
    """Create a control group that may use this many processors; None if the system does not support or allow it."""
    name, quota = f"numba_rnnlm-{os.getpid()}-{time.monotonic_ns()}", str(int(processors * PERIOD))
    for root, limit, text in (("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", quota), ("/sys/fs/cgroup", "cpu.max", f"{quota} {PERIOD}")):
        group = Path(root, name)
        with suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(text)
                yield group
                return
            finally:
                with suppress(OSError):
                    group.rmdir()
    yield None


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run this many processes that only compute."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(number)]
    try:
        time.sleep(0.1 * bool(number))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(players: Players, row: Row, situations: Sequence[str], options: Any) -> Iterator[dict[str, Any]]:
    text = row._replace(shape=row.shape._replace(streams=1))
    begin(players, text.request("generation", backend="cpu", weights="float32"), 0)
    expect_same_ids(players, text)
    for situation in situations:
        if situation in CLIENTS:
            request = {"command": "clients", "length": RESTED, "seconds": CLIENT_SECONDS, "number": CLIENTS[situation]}
            yield {"situation": situation, "symbols": RESTED} | turns(players, options.turns // 2 + 1, request)
        elif situation not in WORK:
            rest = REST.get(situation, 0)
            with busy_processes(BUSY.get(situation, 0)):
                for length in options.lengths if rest < 1 else [RESTED]:
                    request = {"command": "latencies", "length": length, "seconds": SECONDS, "rest": rest % 1}
                    if rest >= 1:
                        request["seconds"] = 0
                    yield {"situation": situation, "symbols": length} | turns(players, options.turns, request, rest)
    for work in (name for name in situations if name in WORK):
        begin(players, row.request(work, backend="cpu", **WORK[work]), 1e-3)
        for situation, busy in BUSY.items():
            yield {"situation": f"{work}, {situation}"} | busy_speeds(players, busy, options)


def begin(players: Players, request: dict[str, Any], tolerance: float) -> None:
    """Let all players create the same task, and check that they compute the same figures."""
    checks = {who: player.ask(command="check", **request) for who, player in players.items()}
    expect_equal({who: check | {"seconds": 0} for who, check in checks.items()}, tolerance, str(request))


def turns(players: Players, number: int, request: dict[str, Any], rest: float = 0) -> dict[str, Any]:
    """Percentiles of the milliseconds of all requests, and ratios of medians and rates, computed per turn."""
    seconds: dict[str, list[float]] = {who: [] for who in players}
    medians: dict[str, list[float]] = {who: [] for who in players}
    rates: dict[str, list[float]] = {who: [] for who in players}
    for _ in range(number):
        time.sleep(rest if rest >= 1 else 0)
        for who, player in players.items():
            answer = player.ask(**request)
            seconds[who] += answer["seconds"]
            medians[who].append(statistics.median(answer["seconds"]))
            rates[who].append(answer.get("rate", 0))
    found: dict[str, Any] = {
        "milliseconds": {who: percentiles(values) for who, values in seconds.items()},
        "times": {who: ratio(medians[OURS], values) for who, values in medians.items() if who != OURS},
    }
    if "number" in request:
        best = [max(column) for column in zip(*(values for who, values in rates.items() if "thread" in who), strict=True)]
        found |= {"requests_per_second": {who: statistics.median(values) for who, values in rates.items()},
                  "of_the_best": ratio(rates[OURS], best)}
    return found


def busy_speeds(players: Players, busy: int, options: Any) -> dict[str, Any]:
    """Steps per second next to busy processes, relative to the fair share of the quiet speed, and to the speed of one thread."""
    ours, one = players[OURS], players[ONE]
    quiet_speeds, speeds, single = [], [], []
    for _ in range(options.turns):
        quiet_speeds.append(speed(ours))
        with busy_processes(busy):
            speeds.append(speed(ours))
            single.append(speed(one))
    share = options.threads / (options.threads + busy)
    return {
        "steps_per_second": {"quiet": statistics.median(quiet_speeds), OURS: statistics.median(speeds), ONE: statistics.median(single)},
        "of_the_fair_share": ratio(speeds, [share * value for value in quiet_speeds]),
        "times_one_thread": ratio(speeds, single),
    }


def speed(player: Contestant) -> float:
    """Steps per second in one turn."""
    repeat = max(1, round(WORK_SECONDS / player.ask(command="run", repeat=1)["seconds"]))
    return float(1 / player.ask(command="run", repeat=repeat)["seconds"])


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {f"p{part}": 1000 * ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in (50, 90, 99)}


def describe(found: dict[str, Any]) -> str:
    text = f"{found['situation']:18}"
    if "milliseconds" in found:
        text += f"{found['symbols']:4} symbols: "
        text += ", ".join(f"{who} {'/'.join(f'{value:.2f}' for value in times.values())}" for who, times in found["milliseconds"].items())
        text += " ms;  " + ", ".join(f"{value:.2f}x {who}" for who, value in found["times"].items())
    if "of_the_best" in found:
        text += f";  {found['requests_per_second'][OURS]:.0f} requests/s, {found['of_the_best']:.2f} of the best"
    if "of_the_fair_share" in found:
        text += ", ".join(f"{who} {value:.1f}" for who, value in found["steps_per_second"].items()) + " steps/s; "
        text += f"{found['of_the_fair_share']:.2f} of the fair share, {found['times_one_thread']:.2f}x {ONE}"
    return text


if __name__ == "__main__":
    main()
