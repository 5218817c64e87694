"""One training step of a language model: embedding, recurrent layers, softmax, loss, backward, clip, SGD.

    python -m benchmarks.training                        our milliseconds and GFLOP/s
    python -m benchmarks.training --peer torch           PyTorch on the same work, in turns, and the ratio
    python -m benchmarks.training --shape 5000,100,300,1,8,25 --cells gru
    python -m benchmarks.training --backend cuda --precision tf32 --peer torch
"""

from typing import Any

from .harness import compare, contestants, geometric_mean, machine, parser, write_results
from .shapes import SHAPES, Shape

SECONDS = 0.4  # of one turn, about
TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}  # of loss and gradient
PEERS = {"float32": "float32", "tf32": "tf32", "bf16": "tf32"}  # what the peer may round to, where we do


def main() -> None:
    flags = parser("Time one training step of a language model.")
    flags.add_argument("--rows", nargs="*", default=list(SHAPES), choices=list(SHAPES), help="named models")
    flags.add_argument("--shape", help="one model of your own: vocabulary,embedding,hidden,layers,streams,steps")
    flags.add_argument("--cells", nargs="*", default=["lstm"], help="lstm gru tanh relu")
    flags.add_argument("--precision", default="float32", choices=list(TOLERANCE), help="of products, on cuda")
    options = flags.parse_args()
    shapes = {name: SHAPES[name] for name in options.rows}
    if options.shape:
        shapes = {"own": Shape(*(int(number) for number in options.shape.split(",")))}
    workers = {"numba_rnnlm": "benchmarks.workers.ours"} | {peer: f"benchmarks.workers.{peer}" for peer in options.peer}
    python = dict.fromkeys(options.peer, options.peer_python)
    rows: list[dict[str, Any]] = []
    with contestants(workers, options.threads, python) as players:
        for name, shape in shapes.items():
            for cell in options.cells:
                rows.append({"row": name, "cell": cell, "shape": shape._asdict()} | measure(players, shape, cell, options))
                print(describe(rows[-1]), flush=True)
    for peer in options.peer:
        ratios = [row["ratio"][peer] for row in rows]
        print(f"geometric mean of {len(ratios)} ratios to {peer}: {geometric_mean(ratios):.2f}, smallest {min(ratios):.2f}")
    about = {"benchmark": "training", "backend": options.backend, "precision": options.precision}
    print("written:", write_results(options.out or "training", about | {"machine": machine(options.threads), "rows": rows}))


def measure(players: Any, shape: Shape, cell: str, options: Any) -> dict[str, Any]:
    common = {"task": "training", "backend": options.backend, "cell": cell, **shape._asdict()}
    requests = {peer: common | {"precision": PEERS[options.precision]} for peer in players}
    requests["numba_rnnlm"] = common | {"precision": options.precision}
    found = compare(players, options.turns, SECONDS, TOLERANCE[options.precision], requests)
    times = found["milliseconds"]
    return found | {"gflops": {who: shape.flops(cell) / spread["median"] / 1e6 for who, spread in times.items()}}


def describe(row: dict[str, Any]) -> str:
    text = f"{row['row']:15} {row['cell']:5}"
    for who, times in row["milliseconds"].items():
        text += f"  {who} {times['median']:8.2f} ms ({times['min']:.2f} to {times['max']:.2f}) {row['gflops'][who]:4.0f} GFLOP/s"
    for who, ratio in row["ratio"].items():
        text += f"  {ratio:.2f}x {who}"
    return text


if __name__ == "__main__":
    main()
