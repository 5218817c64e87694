"""One training step on 1, 2, 4, ... threads, and the speed-up over one thread.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --threads 8 --rows char zaremba-medium --peer torch

First, all must compute the same loss and gradient. Each number of threads has a process of its own, and they are timed alternately.
"""

import os
from contextlib import ExitStack
from typing import Any

from .harness import Contestant, compare, contestants, describe, parser, read, write_results
from .shapes import Row, chosen, model_flags

SECONDS = 0.4  # approximate duration of one turn
TOLERANCE = 1e-3


def main() -> None:
    flags = parser("Time one training step on increasing numbers of threads.")
    flags.set_defaults(threads=os.cpu_count() or 1)
    model_flags(flags, rows=["zaremba-medium"])
    options = read(flags, "scaling")
    threads = sorted({*(1 << power for power in range(options.threads.bit_length())), options.threads})
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        teams = {count: stack.enter_context(contestants(options, count)) for count in threads}
        for row in chosen(options):
            for found in measure(teams, row, options):
                rows.append(found)
                label = f"{row.name} {row.cell}, threads {found['threads']}"
                speedups = ", ".join(f"{who} {value:.2f}x" for who, value in found["speedup"].items())
                print(describe(label, found["milliseconds"], "ms"), f" speed-up over one thread: {speedups}", flush=True)
    write_results("scaling", options, rows)


def measure(teams: dict[int, dict[str, Contestant]], row: Row, options: Any) -> list[dict[str, Any]]:
    players = {f"{who} {count}": player for count, team in teams.items() for who, player in team.items()}
    request = row.request("training", backend=options.backend, precision="float32")
    times = compare(players, options.turns, SECONDS, TOLERANCE, dict.fromkeys(players, request))["milliseconds"]
    return [
        row.about() | {
            "threads": count,
            "milliseconds": {who: times[f"{who} {count}"] for who in team},
            "speedup": {who: times[f"{who} 1"]["median"] / times[f"{who} {count}"]["median"] for who in team},
        }
        for count, team in teams.items()
    ]


if __name__ == "__main__":
    main()
