"""Seconds from starting Python to a result, each in a fresh process.

    python -m benchmarks.startup
    python -m benchmarks.startup --peer torch --rows char zaremba-medium

Measured are the interpreter alone; the import; loading a model and generating the first token; loading a model and the first training
step; and the latter with an empty kernel cache (NUMBA_CACHE_DIR).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from .harness import OURS, describe, expect_equal, parser, program, read, spread, write_results
from .programs.files import save_corpus, save_models
from .shapes import Row, chosen, model_flags

TOLERANCE = 1e-3  # for the loss
COLD_TURNS = 3  # maximum, because compiling everything takes long


def main() -> None:
    flags = parser("Time how long it takes from starting Python to a result.")
    model_flags(flags, rows=["char"])
    options = read(flags, "startup")
    rows: list[dict[str, Any]] = []
    for row in chosen(options):
        for found in measure(row, options):
            rows.append(found)
            print(describe(f"{row.name} {row.cell}: {found['what']}", found["seconds"], "s", found["ratio"]), flush=True)
    write_results("startup", options, rows)


def measure(row: Row, options: Any) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = save_models(folder, row, options)
        corpus = save_corpus(folder / "ids.npy", row, 1)
        training = (corpus, row.shape.streams, row.shape.steps, 1)
        arguments: dict[str, Callable[[str], tuple[Any, ...]]] = {
            "the interpreter alone": lambda who: ("nothing",),
            "import": lambda who: ("import",),
            "load, first token": lambda who: ("token", models[who]),
            "load, first training step": lambda who: ("train", models[who], *training),
        }
        rows = []
        for what, arguments_of in arguments.items():
            check = {who: program(who, options, *arguments_of(who))[1] for who in models}  # compiles, and fills the disk cache
            same = {who: {name: answer[name] for name in answer if name in ("id", "loss")} for who, answer in check.items()}
            expect_equal(same, TOLERANCE, what)
            seconds: dict[str, list[float]] = {who: [] for who in models}
            for _ in range(options.turns):
                for who in models:
                    seconds[who].append(program(who, options, *arguments_of(who))[0])
            rows.append(row.about() | {"what": what} | summary(seconds))
        cold = []
        for turn in range(min(options.turns, COLD_TURNS)):
            empty = str(folder / f"kernels-{turn}")
            cold.append(program(OURS, options, *arguments[what](OURS), NUMBA_CACHE_DIR=empty)[0])
        return [*rows, row.about() | {"what": what + ", nothing compiled"} | summary({OURS: cold})]


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    ratio = {who: median(values) / median(seconds[OURS]) for who, values in seconds.items() if who != OURS}
    return {"seconds": {who: spread(values) for who, values in seconds.items()}, "ratio": ratio}


if __name__ == "__main__":
    main()
