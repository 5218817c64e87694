"""One layer: a recurrent one on a GPU, forward and backward, compared with torch.nn (cuDNN); other layers on the CPU.

    python -m benchmarks.layers --peer torch
    python -m benchmarks.layers --peer torch --shapes 20,35,200 --cells lstm --precisions tf32
    python -m benchmarks.layers --peer torch --layers conv attention
"""

from typing import Any, NamedTuple

from .harness import OURS, compare, contestants, describe, parser, read, write_results

SHAPES = ["20,35,200", "20,35,650", "64,128,512"]
SECONDS = 0.1  # approximate duration of one turn
# Our precision → those of cuDNN to compare with; fp16 means that everything is fp16, including gradients and state.
PRECISIONS = {"float32": ["float32"], "tf32": ["tf32", "fp16"], "bf16": ["tf32", "fp16"]}
TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}


class Row(NamedTuple):
    """A layer by the name of its class and its arguments, and the shape (streams, steps, features) of its input."""

    kind: str
    shape: tuple[int, int, int]
    arguments: dict[str, Any]


ROWS = {  # --layers, forward and all gradients; a worker for a peer has a module for each kind
    "conv": [
        Row("Conv1D", (64, 128, 64), {"filters": 128, "kernel_size": 3}),
        Row("Conv1D", (64, 128, 64), {"filters": 128, "kernel_size": 5}),
        Row("Conv1D", (16, 512, 256), {"filters": 256, "kernel_size": 3, "padding": "causal"}),
    ],
    "attention": [
        Row("MultiHeadAttention", (streams, steps, size), {"num_heads": heads, "key_dim": size // heads, "use_bias": False, "use_causal_mask": True})
        for streams, steps in ((16, 256), (4, 1024)) for size in (64, 256, 512) for heads in (1, 4, 8)
    ],
}


def main() -> None:
    flags = parser("Time one recurrent layer: forward, and forward with all gradients.", backends=("cuda", "cpu"))
    flags.add_argument("--shapes", nargs="*", default=SHAPES, help="streams,steps,hidden")
    flags.add_argument("--cells", nargs="*", default=["lstm", "gru", "tanh"], help="lstm gru tanh relu")
    flags.add_argument("--precisions", nargs="*", default=["float32", "tf32"], choices=list(PRECISIONS))
    flags.add_argument("--layers", nargs="*", default=[], choices=list(ROWS), help="other layers, on the CPU, in place of the recurrent ones")
    options = read(flags, "layers")
    rows: list[dict[str, Any]] = []
    with contestants(options) as players:
        for row in (row for family in options.layers for row in ROWS[family]):
            rows.append(measure_one(players, row, options))
            print(describe(str(rows[-1]["row"]), rows[-1]["milliseconds"], "ms", rows[-1]["ratio"]), flush=True)
        if options.layers:
            options.cells = []
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


def measure_one(players: Any, row: Row, options: Any) -> dict[str, Any]:
    request = {"task": "one", **row._asdict()}
    found = compare(players, options.turns, 4 * SECONDS, TOLERANCE["float32"], dict.fromkeys(players, request))
    arguments = ", ".join(f"{name}={value}" for name, value in row.arguments.items())
    return {"row": f"{row.kind}({arguments}) on {row.shape}"} | found


def line(row: dict[str, Any]) -> str:
    what = "forward and backward" if row["backward"] else "forward"
    label = f"{row['cell']:5}({row['streams']}, {row['steps']}, {row['hidden']})  {what:20} {row['precision']:8}"
    return describe(label, row["milliseconds"], "ms", row["ratio"]) + f" in {row['peer_precision']}"


if __name__ == "__main__":
    main()
