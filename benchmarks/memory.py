"""Peak resident memory of a process that trains: MB (10⁶ bytes), everything counted, the interpreter too.

    python -m benchmarks.memory --peer torch
    python -m benchmarks.memory --rows char --tokens 1000000

It should grow neither with the number of updates nor with the corpus, a file of ids. Pages of a file that is mapped
count in the peak though the system may take them back at any time; "anonymous" is what the process holds at the end
without them (Linux).
"""

import tempfile
from pathlib import Path
from typing import Any

from .harness import OURS, describe, expect_equal, parser, program, read, spread, write_results
from .programs.files import save_corpus, save_models
from .shapes import Row, chosen, model_flags

TOLERANCE = 1e-3  # of the mean loss
UPDATES = (5, 50)
LARGER = 10  # times


def main() -> None:
    flags = parser("Measure the memory that training takes.")
    flags.set_defaults(turns=3)
    model_flags(flags, rows=["zaremba-medium"])
    flags.add_argument("--tokens", type=int, default=10_000_000, help=f"of the corpus, and then {LARGER} times as many")
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
