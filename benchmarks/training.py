"""One training step of a language model: embedding, recurrent layers, softmax, loss, backward, clip, SGD.

    python -m benchmarks.training                        our milliseconds and GFLOP/s
    python -m benchmarks.training --peer torch           PyTorch on the same work, in turns, and the ratio
    python -m benchmarks.training --shape 5000,100,300,1,8,25 --cells gru
"""

import math
from typing import Any

from .harness import contestants, in_turns, machine, parser, spread, write_results
from .shapes import SHAPES, Shape

SECONDS = 0.4  # of one turn, about


def main() -> None:
    flags = parser("Time one training step of a language model.")
    flags.add_argument("--rows", nargs="*", default=list(SHAPES), choices=list(SHAPES), help="named models")
    flags.add_argument("--shape", help="one model of your own: vocabulary,embedding,hidden,layers,streams,steps")
    flags.add_argument("--cells", nargs="*", default=["lstm"], help="lstm gru tanh relu")
    options = flags.parse_args()
    shapes = {name: SHAPES[name] for name in options.rows}
    if options.shape:
        shapes = {"own": Shape(*(int(number) for number in options.shape.split(",")))}
    workers = {"numba_rnnlm": "benchmarks.workers.ours"} | {peer: f"benchmarks.workers.{peer}" for peer in options.peer}
    python = dict.fromkeys(options.peer, options.peer_python)
    rows, ratios = [], {peer: [] for peer in options.peer}
    with contestants(workers, options.threads, python) as players:
        for name, shape in shapes.items():
            for cell in options.cells:
                rows.append(measure(players, name, shape, cell, options.turns))
                print(describe(rows[-1]), flush=True)
                for peer in options.peer:
                    ratios[peer].append(rows[-1]["ratio"][peer])
    for peer, values in ratios.items():
        mean = math.exp(sum(math.log(value) for value in values) / len(values))
        print(f"geometric mean of {len(values)} ratios to {peer}: {mean:.2f}, smallest {min(values):.2f}")
    results = {"benchmark": "training", "machine": machine(options.threads), "rows": rows}
    print("written:", write_results(options.out or "training", results))


def measure(players: Any, name: str, shape: Shape, cell: str, turns: int) -> dict[str, Any]:
    """First the same numbers, then the time."""
    checks = {who: player.ask(command="check", cell=cell, **shape._asdict()) for who, player in players.items()}
    ours = checks["numba_rnnlm"]
    for who, check in checks.items():
        for figure in ("loss", "gradient_norm"):
            if not math.isclose(check[figure], ours[figure], rel_tol=1e-3):
                raise SystemExit(f"{name} {cell}: {figure} is {check[figure]} for {who}, {ours[figure]} for us.")
    repeat = max(1, round(SECONDS / max(check["seconds"] for check in checks.values())))
    seconds = in_turns(players, turns, repeat=repeat)
    ratio = {
        who: spread([peer / our for peer, our in zip(times, seconds["numba_rnnlm"], strict=True)])["median"]
        for who, times in seconds.items() if who != "numba_rnnlm"
    }
    return {
        "row": name, "cell": cell, "shape": shape._asdict(), "steps_per_turn": repeat, "ratio": ratio,
        "milliseconds": {who: spread([1000 * value for value in times]) for who, times in seconds.items()},
        "gflops": {who: shape.flops(cell) / spread(times)["median"] / 1e9 for who, times in seconds.items()},
    }


def describe(row: dict[str, Any]) -> str:
    text = f"{row['row']:15} {row['cell']:5}"
    for who, times in row["milliseconds"].items():
        text += f"  {who} {times['median']:8.2f} ms ({times['min']:.2f} to {times['max']:.2f}) {row['gflops'][who]:4.0f} GFLOP/s"
    for who, ratio in row["ratio"].items():
        text += f"  {ratio:.2f}x {who}"
    return text


if __name__ == "__main__":
    main()
