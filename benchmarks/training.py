"""One training step of a language model: embedding, recurrent layers, softmax, loss, backward, clip, SGD.

    python -m benchmarks.training                        milliseconds, GFLOP/s and the share of the peak rate
    python -m benchmarks.training --peer torch           compares with PyTorch, timed alternately
    python -m benchmarks.training --shape 5000,100,300,1,8,25 --cells gru
    python -m benchmarks.training --precision bf16 --peer torch --out training-bf16
    python -m benchmarks.training --backend cuda --precision tf32 --peer torch

The peak rate of a CPU is that of the float32 register tile with data in L1 cache, on all threads at once, measured
between the rows.
"""

import statistics
from typing import Any

from .harness import OURS, compare, contestants, describe, geometric_mean, parser, read, write_results
from .shapes import Row, chosen, model_flags

SECONDS = 0.4  # approximate duration of one turn
TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}  # for loss and gradient
PEERS = {  # backend → our precision → the precision of the peer
    "cpu": {"float32": "float32", "tf32": "float32", "bf16": "float32"},
    "cuda": {"float32": "float32", "tf32": "tf32", "bf16": "tf32"},
}


def main() -> None:
    flags = parser("Time one training step of a language model.", backends=("cpu", "cuda"))
    model_flags(flags)
    flags.add_argument("--precision", default="float32", choices=list(TOLERANCE), help="precision of the factors of matrix products")
    options = read(flags, "training")
    rows: list[dict[str, Any]] = []
    roofs: list[float] = []
    with contestants(options) as players:
        for row in chosen(options):
            rows.append(measure(players, row, options))
            gflops = ", ".join(f"{who} {value:.0f}" for who, value in rows[-1]["gflops"].items())
            label = f"{row.name} {row.cell}"
            print(describe(label, rows[-1]["milliseconds"], "ms", rows[-1]["ratio"]), f" GFLOP/s: {gflops}", flush=True)
            if options.backend == "cpu":
                roofs += [players[OURS].ask(command="roof")["gflops"] for _ in range(3)]
    if roofs:
        roof = statistics.median(roofs)
        print(f"peak rate of the float32 register tile in L1 cache: {roof:.0f} GFLOP/s ({min(roofs):.0f} to {max(roofs):.0f})")
        for found in rows:
            found |= {"roof_gflops": roof, "share": {who: value / roof for who, value in found["gflops"].items()}}
            shares = ", ".join(f"{who} {share:.0%}" for who, share in found["share"].items())
            print(f"{found['row'] + ' ' + found['cell']:32}  {shares} of peak")
    for peer in options.peer:
        ratios = [row["ratio"][peer] for row in rows]
        print(f"geometric mean of {len(ratios)} ratios to {peer}: {geometric_mean(ratios):.2f}, smallest {min(ratios):.2f}")
    write_results("training", options, rows, backend=options.backend, precision=options.precision)


def measure(players: Any, row: Row, options: Any) -> dict[str, Any]:
    precisions = dict.fromkeys(players, PEERS[options.backend][options.precision]) | {OURS: options.precision}
    requests = {
        who: row.request("training", backend=options.backend, precision=precision) for who, precision in precisions.items()
    }
    found = compare(players, options.turns, SECONDS, TOLERANCE[options.precision], requests)
    flops = row.shape.flops(row.cell)
    gflops = {who: flops / times["median"] / 1e6 for who, times in found["milliseconds"].items()}
    return row.about() | found | {"gflops": gflops}


if __name__ == "__main__":
    main()
