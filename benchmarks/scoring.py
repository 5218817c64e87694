"""Sentences scored per second; the sentences have 5 to 60 ids.

    python -m benchmarks.scoring --peer torch

With PyTorch, sentences are sorted by length and padded in batches of 64, as is common.
"""

from typing import Any

from .harness import Contestant, compare, contestants, convert, describe, parser, read, write_results
from .shapes import Row, chosen, model_flags

SECONDS = 0.4  # approximate duration of one turn
TOLERANCE = 1e-4  # for the sum of all log-probabilities, and for the norm of the sentences' log-probabilities


def main() -> None:
    flags = parser("Time the scoring of sentences.")
    model_flags(flags)
    flags.add_argument("--sentences", type=int, default=1000, help="number of sentences")
    options = read(flags, "scoring")
    rows: list[dict[str, Any]] = []
    with contestants(options) as players:
        for row in chosen(options):
            rows.append(measure(players, row, options))
            label = f"{row.name} {row.cell}"
            print(describe(label, rows[-1]["sentences_per_second"], "sentences/s", rows[-1]["ratio"]), flush=True)
    write_results("scoring", options, rows, sentences=options.sentences)


def measure(players: dict[str, Contestant], row: Row, options: Any) -> dict[str, Any]:
    request = row.request("scoring", backend=options.backend, sentences=options.sentences)
    found = compare(players, options.turns, SECONDS, TOLERANCE, dict.fromkeys(players, request))
    speeds = convert(found.pop("milliseconds"), lambda value: 1000 * options.sentences / value)
    return row.about() | found | {"sentences_per_second": speeds}


if __name__ == "__main__":
    main()
