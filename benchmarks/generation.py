"""Microseconds per generated token, including the choice of the symbol.

    python -m benchmarks.generation                                   one stream
    python -m benchmarks.generation --streams 1 64 --weights float32 int8 --peer torch
    python -m benchmarks.generation --stacks --peer torch             models with convolution, attention, norms and scans

First, all libraries must generate the same ids at temperature 0; then sampling at temperature 1 is timed. The floor is the time in which
the same threads, in a plain loop over one buffer, read as many bytes as a token needs of the float32 weights (all except the
embedding, of which it needs one row).
"""

import statistics
from typing import Any

from .harness import (
    OURS,
    Contestant,
    compare,
    contestants,
    convert,
    describe,
    geometric_mean,
    parser,
    read,
    write_results,
)
from .shapes import Row, chosen, model_flags
from .stacks import STACKS

SECONDS = 0.4  # approximate duration of one turn
TOKENS = 100  # symbols per call and stream
LONG = 600  # symbols per call for a stack; its windows hold fewer
GREEDY = 30  # ids that must be equal
TIE = 1e-4  # logits closer than this may be ranked either way


def main() -> None:
    flags = parser("Time the generation of one symbol.")
    model_flags(flags)
    flags.add_argument("--streams", nargs="*", type=int, default=[1], help="texts per batch")
    flags.add_argument("--weights", nargs="*", default=["float32"], choices=["float32", "int8"], help="for numba_rnnlm; peers use float32")
    flags.add_argument("--stacks", nargs="*", choices=list(STACKS), help="these stacks of other layers, by default all, in place of the named models")
    options = read(flags, "generation")
    rows: list[dict[str, Any]] = []
    with contestants(options) as players:
        if options.stacks is not None:
            rows += [measure_stack(players, name, streams, options) for name in options.stacks or STACKS for streams in options.streams]
            options.rows, options.shape = [], []
            for who in options.peer:
                print(f"geometric mean {geometric_mean([row['ratio'][who] for row in rows]):.2f}x {who}")
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


def measure_stack(players: dict[str, Contestant], name: str, streams: int, options: Any) -> dict[str, Any]:
    request = {"task": "stacked", "backend": options.backend, "weights": "float32", **STACKS[name]._asdict(), "streams": streams, "steps": LONG}
    found = compare(players, options.turns, SECONDS, 0, dict.fromkeys(players, request))
    ties = expect_same_ids(players, name)
    times = convert(found.pop("milliseconds"), lambda value: 1000 * value / LONG / streams)
    print(describe(f"{name}, {streams}", times, "us/token", found["ratio"]) + (f"; ties: {ties}" if ties else ""), flush=True)
    return {"row": name, "streams": streams, "symbols": LONG} | found | {"microseconds": times, "ties": ties}


def expect_same_ids(players: dict[str, Contestant], row: Row | str) -> int:
    """End the program unless all generate the same ids; returns the number of texts that diverge at a tie, where rounding decides."""
    found = {who: player.ask(command="greedy", length=GREEDY) for who, player in players.items()}
    ties = 0
    for who in list(found)[1:]:
        texts = zip(found[OURS]["ids"], found[who]["ids"], found[OURS]["margins"], strict=True)
        for stream, (ours, theirs, margins) in enumerate(texts):
            diverged = [place for place in range(GREEDY) if ours[place] != theirs[place]][:1]
            for place in diverged:
                if margins[place] > TIE:
                    raise SystemExit(f"{row}, stream {stream}: symbol {place} is {theirs[place]} for {who} and {ours[place]} for "
                                     f"{OURS}, although the largest logit is {margins[place]:.2g} above the second.")
                ties += 1
    return ties


if __name__ == "__main__":
    main()
