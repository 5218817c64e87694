"""Peak resident memory of a training process in MB (10⁶ bytes), including the interpreter.

    python -m benchmarks.memory --peer torch
    python -m benchmarks.memory --rows char --tokens 1000000

It should not grow with the number of updates or with the corpus, a file of ids. Pages of a mapped file count towards the
peak, although the system may reclaim them at any time; "anonymous" is the memory of the process at the end without these pages
(Linux only).
"""

import tempfile
from pathlib import Path
from typing import Any

from .harness import OURS, describe, expect_equal, parser, program, read, spread, write_results
from .programs.files import save_corpus, save_models
from .shapes import Row, chosen, model_flags

TOLERANCE = 1e-3  # for the mean loss
UPDATES = (5, 50)
LARGER = 10  # factor between the sizes of the two corpora


def main() -> None:
    flags = parser("Measure the peak memory of training.")
    flags.set_defaults(turns=3)
    model_flags(flags, rows=["zaremba-medium"])
    flags.add_argument("--tokens", type=int, default=10_000_000, help=f"size of the corpus; a corpus of {LARGER} times this size follows")
    options = read(flags, "memory")
    rows: list[dict[str, Any]] = []
    for row in chosen(options):
        for found in measure(row, options):
            rows.append(found)
            label = f"{row.name} {row.cell}: {found['updates']} updates, {found['tokens']:,} ids"
            print(describe(label, found["megabytes"], "MB", found["ratio"]), flush=True)
            print(describe("  anonymous at the end", found["anonymous_megabytes"], "MB"), flush=True)
    write_results("memory", options, rows)


def measure(row: Row, options: Any) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = save_models(folder, row, options)
        few, many = UPDATES
        larger = options.tokens * LARGER
        for updates, tokens in ((few, options.tokens), (many, options.tokens), (few, larger)):
            corpus = save_corpus(folder / "ids.npy", row, max(tokens, many * row.shape.streams * row.shape.steps))
            training = (corpus, row.shape.streams, row.shape.steps, updates)
            runs: list[dict[str, dict[str, Any]]] = []
            for _ in range(options.turns):
                runs.append({who: program(who, options, "train", models[who], *training)[1] for who in models})
                expect_equal({who: {"loss": run["loss"]} for who, run in runs[-1].items()}, TOLERANCE, str(row))
            peaks, anonymous = (
                {who: spread([run[who][key] for run in runs]) for who in models if key in runs[0][who]}
                for key in ("peak_megabytes", "anonymous_megabytes")
            )
            rows.append(row.about() | {
                "updates": updates, "tokens": tokens, "megabytes": peaks, "anonymous_megabytes": anonymous,
                "ratio": {who: peaks[who]["median"] / peaks[OURS]["median"] for who in options.peer},
            })
    return rows


if __name__ == "__main__":
    main()
