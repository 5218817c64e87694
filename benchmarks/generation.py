"""Drawing symbols: microseconds a token, the choice of the symbol included.

    python -m benchmarks.generation                                   one stream
    python -m benchmarks.generation --streams 1 64 --weights float32 int8 --peer torch

First all must write the same ids at temperature 0; then they draw at temperature 1. The floor is the time in which
the same threads read as many bytes as the weights that a token needs (all but the embedding, of which one row) have in
float32, by a plain loop over one buffer again and again.
"""

import statistics
from typing import Any

from .harness import OURS, Contestant, compare, contestants, convert, describe, parser, read, write_results
from .shapes import Row, chosen, model_flags

SECONDS = 0.4  # of one turn, about
TOKENS = 100  # drawn at once, by each stream
GREEDY = 30  # ids that must be the same
TIE = 1e-4  # logits closer than this may be ranked either way


def main() -> None:
    flags = parser("Time the drawing of one symbol.")
    model_flags(flags)
    flags.add_argument("--streams", nargs="*", type=int, default=[1], help="texts side by side")
    flags.add_argument("--weights", nargs="*", default=["float32"], choices=["float32", "int8"], help="ours; peers: float32")
    options = read(flags, "generation")
    rows: list[dict[str, Any]] = []
    with contestants(options) as players:
        for row in chosen(options):
            for streams in options.streams:
                for weights in options.weights:
                    shape = row.shape._replace(streams=streams, steps=TOKENS)
                    rows.append(measure(players, Row(row.name, row.cell, shape), weights, options))
                    label = f"{row.name} {row.cell}, {streams} x {weights}"
                    found = rows[-1]
                    print(describe(label, found["microseconds"], "us/token", found["ratio"]),
                          f" {found['times_floor']:.2f}x the floor of {found['floor_microseconds']:.1f} us"
                          f"{'; ties: ' + str(found['ties']) if found['ties'] else ''}", flush=True)
    write_results("generation", options, rows)


def measure(players: dict[str, Contestant], row: Row, weights: str, options: Any) -> dict[str, Any]:
    streams = row.shape.streams
    request = row.request("generation", backend=options.backend, weights=weights)
    found = compare(players, options.turns, SECONDS, 0, dict.fromkeys(players, request))
    ties = 0 if weights == "int8" else expect_same_ids(players, row)
    times = convert(found.pop("milliseconds"), lambda value: 1000 * value / TOKENS / streams)
    size = 4 * (row.shape.multiply_adds(row.cell) + row.shape.embedding)
    floors = [players[OURS].ask(command="floor", size=size)["seconds"] for _ in range(options.turns)]
    floor = 1e6 * statistics.median(floors)
    return row.about() | found | {
        "weights": weights, "microseconds": times, "ties": ties, "floor_microseconds": floor,
        "times_floor": times[OURS]["median"] * streams / floor,
    }


def expect_same_ids(players: dict[str, Contestant], row: Row) -> int:
    """End unless all write the same; → how many texts part where two logits are equal but for rounding."""
    found = {who: player.ask(command="greedy", length=GREEDY) for who, player in players.items()}
    ties = 0
    for who in list(found)[1:]:
        texts = zip(found[OURS]["ids"], found[who]["ids"], found[OURS]["margins"], strict=True)
        for stream, (ours, theirs, margins) in enumerate(texts):
            parted = [place for place in range(GREEDY) if ours[place] != theirs[place]][:1]
            for place in parted:
                if margins[place] > TIE:
                    raise SystemExit(f"{row}, stream {stream}: symbol {place} is {theirs[place]} for {who}, {ours[place]} for "
                                     f"{OURS}, where the largest logit is {margins[place]:.2g} above the second.")
                ties += 1
    return ties


if __name__ == "__main__":
    main()
