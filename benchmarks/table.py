"""Write the tables of README.md and docs/benchmarks.md from the result files: python -m benchmarks.table

A table whose result files are missing stays unchanged.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .harness import DEVICE, OURS, RESULTS, ROOT, TRACKED, geometric_mean, replace

DOCUMENTS = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
NAMES = {OURS: OURS, "torch": "PyTorch", "keras": "Keras"}


def summary(*files: dict[str, Any]) -> list[str]:
    """Selected rows of the other tables, always for the same two models."""
    training, listing, generation, scoring, startup, memory, device = files
    small, large = ({"row": name, "cell": "lstm"} for name in ("char", "zaremba-medium"))
    one, many = ({"weights": "float32", "streams": streams} for streams in (1, 64))
    rows = [
        ("training step, small LSTM, ms", training, small, "milliseconds", 1),
        ("training step, large LSTM, ms", training, large, "milliseconds", 1),
        ("training step, the Keras model above, ms", listing, {}, "milliseconds", 1),
        ("generating, small LSTM, µs per symbol", generation, small | one, "microseconds", 1),
        ("generating, large LSTM, µs per symbol", generation, large | one, "microseconds", 1),
        ("generating 64 texts, large LSTM, µs per symbol", generation, large | many, "microseconds", 1),
        ("scoring, large LSTM, sentences per second", scoring, large, "sentences_per_second", 0),
        ("starting Python and importing, seconds", startup, {"what": "import"}, "seconds", 2),
        ("peak memory of a training, large LSTM, MB", memory, large, "megabytes", 0),
        ("training step on a GPU, both in TF32, large LSTM, ms", device, large, "milliseconds", 2),
    ]

    def cells(what: str, results: dict[str, Any], wanted: dict[str, Any], unit: str, decimals: int) -> list[str]:
        row = next(row for row in results["rows"] if wanted.items() <= (row["shape"] | row).items())
        values = (f"{row[unit][who]['median']:,.{decimals}f}" for who in (OURS, "torch"))
        return [what, *values, times(row["ratio"]["torch"]), f"`{command_of(results)}`"]

    def described(wanted: dict[str, Any]) -> str:
        shape = next(row["shape"] for row in training["rows"] if wanted.items() <= row.items())
        return f"{shape['layers']} layers of {shape['hidden']} units and a vocabulary of {shape['vocabulary']:,}"

    return [
        f"Medians on {on(training)}, in the last row on {article(device_of(device))}. The small LSTM has {described(small)}, the large one "
        f"{described(large)}. The last column is the command, after `python -m benchmarks.`",
        "",
        *table(["what"], [OURS, "PyTorch", "ratio"], (cells(*row) for row in rows), ["measured by"]),
    ]


def training(results: dict[str, Any]) -> list[str]:
    return [
        "A full training step (embedding, recurrent layers, softmax, loss, gradients, clipping, update) in float32 on "
        f"{on(results)}; median milliseconds. \"Of peak\" is the share of the multiply-add rate that the same threads reach with data in L1 cache.",
        "",
        *table(["model", "cell"], [OURS, "PyTorch", "ratio", "of peak"], (
            [size(row), row["cell"], f"{median(row, OURS):.1f}", f"{median(row, 'torch'):.1f}", times(row["ratio"]["torch"]),
             f"{row['share'][OURS]:.0%}" if "share" in row else ""] for row in results["rows"])),
        "",
        f"{measured_by('training')}, which first checks that both libraries compute the same loss and gradient.",
    ]


def training_bf16(results: dict[str, Any]) -> list[str]:
    return [
        f"The same training step with `precision=\"bf16\"` on {on(results)} with AVX512_BF16; median milliseconds.",
        "",
        *table(["model", "cell"], [OURS], ([size(row), row["cell"], f"{median(row, OURS):.1f}"] for row in results["rows"])),
        "",
        f"{measured_by('training-bf16')}.",
    ]


def listing(results: dict[str, Any]) -> list[str]:
    row = results["rows"][0]
    return [
        f"A training step of the README's Keras model (batch 64, 32 steps, vocabulary 2,000) on {on(results)}; median milliseconds.",
        "",
        *table([""], ["milliseconds", "ratio"], (
            [NAMES[who], f"{median(row, who):.1f}", times(row["ratio"].get(who, 1))] for who in row["milliseconds"])),
        "",
        f"{measured_by('listing')}.",
    ]


def generation(results: dict[str, Any]) -> list[str]:
    models: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for row in results["rows"]:
        models.setdefault(size(row), {})[row["weights"], row["shape"]["streams"]] = row

    def cells(rows: Mapping[tuple[str, int], dict[str, Any]]) -> Iterable[str]:
        for kind in (("float32", 1), ("int8", 1), ("float32", 64)):
            found = rows[kind]["microseconds"] if kind in rows else {}
            if kind[0] == "float32":
                yield f"{found['torch']['median']:.1f}" if "torch" in found else ""
            yield f"{found[OURS]['median']:.1f}" if found else ""
            yield times(rows[kind]["ratio"].get("torch")) if found else ""

    return [
        f"Sampling from an LSTM at temperature 1 on {on(results)}; median microseconds per symbol. One text, with weights in float32 and in "
        "int8, and 64 texts in one batch. All ratios are to PyTorch in float32.",
        "",
        *table(["model"], ["PyTorch", OURS, "ratio", "int8", "ratio", "64: PyTorch", OURS, "ratio"],
               ([name, *cells(rows)] for name, rows in models.items())),
        "",
        f"{measured_by('generation')}, which first checks that both libraries generate the same symbols at temperature 0 with float32 weights.",
    ]


def stacks(results: dict[str, Any]) -> list[str]:
    ratios = [row["ratio"]["torch"] for row in results["rows"]]
    return [
        f"Sampling one text of {results['rows'][0]['symbols']} symbols from models with convolution, attention, norms and scans on {on(results)}; median "
        "microseconds per symbol. PyTorch's loop keeps what the next step needs: the state, the last keys and values, the last inputs. The models are in "
        "`benchmarks/stacks.py`.",
        "",
        *table(["model"], ["PyTorch", OURS, "ratio"], (
            [row["row"], f"{row['microseconds']['torch']['median']:.0f}", f"{row['microseconds'][OURS]['median']:.0f}", times(row["ratio"]["torch"])]
            for row in results["rows"])),
        "",
        f"The geometric mean of the ratios is {geometric_mean(ratios):.1f}. {measured_by('generation-stacks')}, which first checks that both libraries "
        "generate the same symbols at temperature 0.",
    ]


def learning_cells(results: dict[str, Any]) -> list[str]:
    return [
        f"Nats per character of tiny-shakespeare (90 % to train on, 5 % each to validate and to test) after 180 seconds on {on(results)}, one seed; lower is "
        "better. Every row is one command `train` with these options.",
        "",
        *table(["model"], ["weights", "epochs", "validation", "test"], (
            [row["row"], f"{row['weights']:,}", row["epochs"], f"{row['valid nats_per_token']:.3f}", f"{row['test nats_per_token']:.3f}", f"`{row['command']}`"]
            for row in results["rows"]), ["options"]),
        "",
        f"{measured_by('learning-cells')}.",
    ]


def scoring(results: dict[str, Any]) -> list[str]:
    def cells(row: dict[str, Any]) -> list[str]:
        speed = {who: f"{found['median']:,.0f}" for who, found in row["sentences_per_second"].items()}
        return [size(row), row["cell"], speed[OURS], speed.get("torch", ""), times(row["ratio"].get("torch"))]

    return [
        f"Sentences of 5 to 60 symbols scored per second on {on(results)}; medians.",
        "",
        *table(["model", "cell"], [OURS, "PyTorch", "ratio"], map(cells, results["rows"])),
        "",
        f"{measured_by('scoring')}.",
    ]


def startup(results: dict[str, Any]) -> list[str]:
    def cells(row: dict[str, Any]) -> list[str]:
        seconds = {who: f"{found['median']:.2f}" for who, found in row["seconds"].items()}
        return [row["what"], seconds[OURS], seconds.get("torch", ""), times(row["ratio"].get("torch"))]

    return [
        f"Seconds since Python was started, for {size(results['rows'][0])}, on {on(results)}; medians over fresh processes.",
        "",
        *table(["until"], [OURS, "PyTorch", "ratio"], map(cells, results["rows"])),
        "",
        f"{measured_by('startup')}.",
    ]


def memory(results: dict[str, Any]) -> list[str]:
    def cells(row: dict[str, Any]) -> list[str]:
        peak = {who: f"{found['median']:.0f}" for who, found in row["megabytes"].items()}
        return [size(row), f"{row['updates']}", f"{row['tokens']:,}", peak[OURS], peak.get("torch", ""),
                times(row["ratio"].get("torch"))]

    return [
        "Peak resident memory of a training process in MB, including the interpreter.",
        "",
        *table(["model"], ["updates", "corpus, ids", OURS, "PyTorch", "ratio"], map(cells, results["rows"])),
        "",
        f"{measured_by('memory')}.",
    ]


def scaling(results: dict[str, Any]) -> list[str]:
    def cells(row: dict[str, Any]) -> list[str]:
        peer = "torch" in row["milliseconds"]
        return [size(row), f"{row['threads']}", f"{median(row, OURS):.1f}", times(row["speedup"][OURS]),
                f"{median(row, 'torch'):.1f}" if peer else "", times(row["speedup"].get("torch"))]

    return [
        f"A training step by number of threads on {article(results['machine']['processor'])}; median milliseconds, and the speed-up over one thread.",
        "",
        *table(["model"], ["threads", OURS, "", "PyTorch", ""], map(cells, results["rows"])),
        "",
        f"{measured_by('scaling')}.",
    ]


def device_training(*precisions: dict[str, Any]) -> list[str]:
    return [
        f"A full training step of an LSTM model on {article(device_of(precisions[0]))}; median milliseconds. PyTorch may use TF32 in the rows "
        "in which numba_rnnlm does.",
        "",
        *table(["model", "precision"], [OURS, "PyTorch", "ratio"], (
            [size(row), results["precision"], f"{median(row, OURS):.2f}", f"{median(row, 'torch'):.2f}",
             times(row["ratio"]["torch"])] for results in precisions for row in results["rows"])),
    ]


def device_layers(results: dict[str, Any]) -> list[str]:
    columns = ["ours float32", "ours tf32", "cuDNN float32", "cuDNN tf32", "cuDNN fp16"]
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in results["rows"]:
        if row["backward"]:
            cells = found.setdefault((row["cell"], f"{row['streams']}, {row['steps']}, {row['hidden']}"), {})
            cells[f"cuDNN {row['peer_precision']}"] = median(row, "torch")
            if row["precision"] == row["peer_precision"]:
                cells[f"ours {row['precision']}"] = median(row, OURS)
    return [
        "One recurrent layer, forward and all gradients, compared with torch.nn (cuDNN) on the same GPU; median milliseconds.",
        "",
        *table(["cell", "streams, steps, units"], ["ours float32", "tf32", "cuDNN float32", "tf32", "fp16"], (
            [*key, *(f"{cells[column]:.2f}" for column in columns)] for key, cells in found.items())),
        "",
        "Both GPU tables were measured by `benchmarks/device.sh`, which first runs the tests on the GPU.",
    ]


TABLES: dict[str, tuple[Callable[..., list[str]], tuple[str, ...]]] = {  # and the result files that each is made from
    "summary": (summary, ("training", "listing", "generation", "scoring", "startup", "memory", f"training-{DEVICE}-tf32")),
    "training": (training, ("training",)),
    "training in bf16": (training_bf16, ("training-bf16",)),
    "listing": (listing, ("listing",)),
    "generation": (generation, ("generation",)),
    "stacks": (stacks, ("generation-stacks",)),
    "learning": (learning_cells, ("learning-cells",)),
    "scoring": (scoring, ("scoring",)),
    "startup": (startup, ("startup",)),
    "memory": (memory, ("memory",)),
    "scaling": (scaling, ("scaling",)),
    "device training": (device_training, (f"training-{DEVICE}-float32", f"training-{DEVICE}-tf32")),
    "device layers": (device_layers, (f"layers-{DEVICE}",)),
}


def table(left: list[str], right: list[str], rows: Iterable[list[str]], last: Sequence[str] = ()) -> list[str]:
    """A table with left-aligned columns of words, right-aligned columns of numbers, and ``last`` columns of words."""
    rule = "|" + "---|" * len(left) + "---:|" * len(right) + "---|" * len(last)
    return [line([*left, *right, *last]), rule, *map(line, rows)]


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def measured_by(name: str) -> str:
    return f"Measured by `python -m benchmarks.{TRACKED[name]}`"


def command_of(results: Mapping[str, Any]) -> str:
    on_device = f"-{DEVICE}-{results['precision']}" if results.get("backend") == "cuda" else ""
    return TRACKED[results["benchmark"] + on_device]


def size(row: Mapping[str, Any]) -> str:
    shape = row["shape"]
    return f"{row['row']}: {shape['layers']} × {shape['hidden']}, vocabulary {shape['vocabulary']:,}"


def median(row: Mapping[str, Any], who: str) -> float:
    return float(row["milliseconds"][who]["median"])


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}×"


def on(results: Mapping[str, Any]) -> str:
    return f"{results['machine']['threads']} threads of {article(results['machine']['processor'])}"


def device_of(results: Mapping[str, Any]) -> str:
    name: str = results["machine"]["device"].split(",")[0]
    return name


def article(name: str) -> str:
    return ("an " if name.startswith((*"AEIOU", "NVIDIA")) else "a ") + name


def filled(text: str) -> str:
    """Replace the tables in the text of a document by new ones."""
    for name, (make, files) in TABLES.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if pattern.search(text) and not missing(files):
            found = "\n".join(make(*(json.loads((RESULTS / f"{file}.json").read_text()) for file in files)))
            text = pattern.sub(lambda match, found=found: f"{match[1]}{found}\n{match[2]}", text)
    return text


def missing(files: Iterable[str]) -> list[str]:
    return [file for file in files if not (RESULTS / f"{file}.json").exists()]


def main() -> None:
    texts = {path: path.read_text() for path in DOCUMENTS}
    for name, (_, files) in TABLES.items():
        if absent := missing(files):
            print(f"the table {name!r} stays unchanged: there is no {absent[0]}.json in {RESULTS}")
        elif not any(f"<!-- table: {name} -->" in text for text in texts.values()):
            print(f"the table {name!r} is in no document: none has <!-- table: {name} --> and <!-- end -->")
    for path, text in texts.items():
        replace(path, filled(text))


if __name__ == "__main__":
    main()
