"""One layer of 256 units on sequences of up to 100,000 steps: time and peak memory per token of a training step, and of scoring.

    python -m benchmarks.long
    python -m benchmarks.long --layers lstm --steps 100 1000 --streams 1

A training step is the forward pass over the whole sequence and all gradients; scoring reads it in pieces, as ``score`` does. The memory of a token is what
a process needs beyond that of one with a single step, divided by the number of tokens. It includes the input of the layer and, in training, the gradient of
its output. Every figure comes from a process of its own. Sequences that would need more memory than is free are not measured.
"""

import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from numba_rnnlm.layers import LAYERS
from numba_rnnlm.memory import host_memory

from .harness import OURS, describe, parser, program, read, spread, write_results

UNITS = 256
ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # --layers → class and arguments, as in a language model
    "LSTM": ("LSTM", {"units": UNITS, "return_sequences": True}),
    "minGRU": ("Recurrent", {"units": UNITS, "return_sequences": True, "cell": "mingru"}),
    "SRU": ("Recurrent", {"units": UNITS, "return_sequences": True, "cell": "sru"}),
    "Conv1D": ("Conv1D", {"filters": UNITS, "kernel_size": 3, "padding": "causal"}),
    "attention": ("MultiHeadAttention", {"num_heads": 4, "key_dim": UNITS // 4, "use_causal_mask": True, "window": 256}),
}
TASKS = {"training": "one", "scoring": "reading"}  # what is measured → the task of a worker
LONGEST = 60.0  # seconds; no turn of a row begins later


class Row(NamedTuple):
    """One layer on sequences of one shape, in training or scoring."""

    layer: str
    what: str
    streams: int
    steps: int

    def needs(self) -> int:
        """Bytes of all arrays, those of a whole sequence."""
        kind, arguments = ROWS[self.layer]
        shape, layer = (self.steps, self.streams, UNITS), LAYERS[kind](**arguments)
        return 4 * sum(math.prod(size) for size in (shape, layer.output(shape), *layer.activations(shape, True).values()))

    def run(self, options: Any) -> list[dict[str, float]]:
        """What the process of each turn found. The median leaves out a first one that compiles kernels."""
        kind, arguments = ROWS[self.layer]
        runs: list[dict[str, float]] = []
        end = time.perf_counter() + LONGEST
        while not runs or (len(runs) < options.turns and time.perf_counter() < end):
            runs.append(program(OURS, options, "layer", TASKS[self.what], kind, json.dumps(arguments), self.streams, self.steps, UNITS)[1])
        return runs


def main() -> None:
    flags = parser("Measure time and memory per token of long sequences.")
    flags.set_defaults(turns=3)
    flags.add_argument("--layers", nargs="*", default=list(ROWS), choices=list(ROWS), help="layers, each measured with every shape")
    flags.add_argument("--streams", nargs="*", type=int, default=[1, 8], help="numbers of sequences side by side")
    flags.add_argument("--steps", nargs="*", type=int, default=[100, 1_000, 10_000, 100_000], help="lengths of the sequences")
    options = read(flags, "long")
    if options.peer:
        raise SystemExit("--peer is given, but only layers of numba_rnnlm are measured. Nothing was measured.")
    rows: list[dict[str, Any]] = []
    for layer in options.layers:
        for what in TASKS:
            for streams in options.streams:
                least = spread([run["peak_megabytes"] for run in Row(layer, what, streams, 1).run(options)])["median"]
                for steps in options.steps:
                    rows.append(measure(Row(layer, what, streams, steps), least, options))
    write_results("long", options, rows, units=UNITS)


def measure(row: Row, least: float, options: Any) -> dict[str, Any]:
    """The figures of a row; ``least`` is the peak memory of a single step in MB."""
    label, free = f"{row.layer} {row.what}, {row.streams} × {row.steps:,}", free_bytes()
    if row.what == "training" and row.needs() > free:
        print(f"{label:32}  not measured: needs {row.needs() / 1e9:.1f} GB, {free / 1e9:.1f} GB are free", flush=True)
        return row._asdict() | {"needs_gigabytes": row.needs() / 1e9}
    runs, tokens = row.run(options), row.streams * row.steps
    microseconds = spread([1e6 * run["seconds"] / tokens for run in runs])
    kilobytes = spread([1e3 * (run["peak_megabytes"] - least) / tokens for run in runs])
    print(describe(label, {OURS: microseconds}, "µs per token"), flush=True)
    print(describe("", {OURS: kilobytes}, "KB per token"), flush=True)
    return row._asdict() | {"turns": len(runs), "microseconds": microseconds, "kilobytes": kilobytes}


def free_bytes() -> float:
    """Memory that a new process can have (on Linux), or all of it."""
    status = Path("/proc/meminfo")
    if not status.exists():
        return host_memory().bytes
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return min(host_memory().bytes, 1024.0 * int(fields["MemAvailable"].split()[0]))


if __name__ == "__main__":
    main()
