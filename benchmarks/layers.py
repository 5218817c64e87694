"""One recurrent layer on a GPU, forward and backward, compared with torch.nn (cuDNN).

    python -m benchmarks.layers --peer torch
    python -m benchmarks.layers --peer torch --shapes 20,35,200 --cells lstm --precisions tf32
"""

from typing import Any

from .harness import OURS, compare, contestants, describe, parser, read, write_results

SHAPES = ["20,35,200", "20,35,650", "64,128,512"]
SECONDS = 0.1  # approximate duration of one turn
# Our precision → those of cuDNN to compare with; fp16 means that everything is fp16, including gradients and state.
PRECISIONS = {"float32": ["float32"], "tf32": ["tf32", "fp16"], "bf16": ["tf32", "fp16"]}
TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}


def main() -> None:
    flags = parser("Time one recurrent layer: forward, and forward with all gradients.", backends=("cuda", "cpu"))
    flags.add_argument("--shapes", nargs="*", default=SHAPES, help="streams,steps,hidden")
    flags.add_argument("--cells", nargs="*", default=["lstm", "gru", "tanh"], help="lstm gru tanh relu")
    flags.add_argument("--precisions", nargs="*", default=["float32", "tf32"], choices=list(PRECISIONS))
    options = read(flags, "layers")
    rows: list[dict[str, Any]] = []
    with contestants(options) as players:
        for cell in options.cells:
            for shape in options.shapes:
                for precision in options.precisions:
                    for peer in PRECISIONS[precision] if options.peer else ["none"]:
                        for backward in (False, True):
                            rows.append(measure(players, cell, shape, precision, peer, backward, options))
                            print(line(rows[-1]), flush=True)
    write_results("layers", options, rows)


def measure(
    players: Any, cell: str, shape: str, precision: str, peer: str, backward: bool, options: Any
) -> dict[str, Any]:
    streams, steps, hidden = (int(number) for number in shape.split(","))
    common = {"task": "layer", "backend": options.backend, "cell": cell, "streams": streams, "steps": steps,
              "hidden": hidden, "backward": backward}
    requests = {who: common | {"precision": peer} for who in players}
    requests[OURS] = common | {"precision": precision}
    found = compare(players, options.turns, SECONDS, TOLERANCE[precision], requests)
    return {**common, "precision": precision, "peer_precision": peer} | found


def line(row: dict[str, Any]) -> str:
    what = "forward and backward" if row["backward"] else "forward"
    label = f"{row['cell']:5}({row['streams']}, {row['steps']}, {row['hidden']})  {what:20} {row['precision']:8}"
    return describe(label, row["milliseconds"], "ms", row["ratio"]) + f" in {row['peer_precision']}"


if __name__ == "__main__":
    main()
