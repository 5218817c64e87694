"""Write the README's tables from the result files: python -m benchmarks.table

A table whose result files are missing stays as it is.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .harness import DEVICE, OURS, RESULTS, ROOT, TRACKED, replace

README = ROOT / "README.md"
NAMES = {OURS: OURS, "torch": "PyTorch", "keras": "Keras"}


def training(results: dict[str, Any]) -> list[str]:
    return [
        "A whole training step (embedding, recurrent layers, softmax, loss, gradient, clipping, update), float32, "
        f"{on(results)}; medians, milliseconds. The limit is what the same threads multiply and add in first-level cache.",
        "",
        *table(["model", "cell"], [OURS, "PyTorch", "ratio", "of the limit"], (
            [size(row), row["cell"], f"{median(row, OURS):.1f}", f"{median(row, 'torch'):.1f}", times(row["ratio"]["torch"]),
             f"{row['share'][OURS]:.0%}" if "share" in row else ""] for row in results["rows"])),
        "",
        f"{measured_by('training')}, which first checks that both compute the same loss and gradient.",
    ]


def listing(results: dict[str, Any]) -> list[str]:
    row = results["rows"][0]
    return [
        f"A training step of the model above (batch 64, 32 steps, vocabulary 2,000), {on(results)}; medians, milliseconds.",
        "",
        *table([], ["", "milliseconds", "ratio"], (
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
        f"Microseconds for a symbol of an LSTM, drawn from the softmax at temperature 1, {on(results)}; medians. One text, with the "
        "weights in float32 and in int8, and 64 texts side by side; the ratios are to PyTorch in float32.",
        "",
        *table(["model"], ["PyTorch", OURS, "ratio", "int8", "ratio", "64: PyTorch", OURS, "ratio"],
               ([name, *cells(rows)] for name, rows in models.items())),
        "",
        f"{measured_by('generation')}, which first checks that both write the same symbols at temperature 0.",
    ]


def scoring(results: dict[str, Any]) -> list[str]:
    def cells(row: dict[str, Any]) -> list[str]:
        speed = {who: f"{found['median']:,.0f}" for who, found in row["sentences_per_second"].items()}
        return [size(row), row["cell"], speed[OURS], speed.get("torch", ""), times(row["ratio"].get("torch"))]

    return [
        f"Sentences of 5 to 60 symbols that are scored in a second, {on(results)}; medians.",
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
        f"Seconds from starting Python, {on(results)}; medians of fresh processes, {size(results['rows'][0])}.",
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
        "The most memory that a training process has resident, MB, the interpreter included.",
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
        f"A training step on several threads of {article(results['machine']['processor'])}; medians, milliseconds, and how much "
        "faster than on one.",
        "",
        *table(["model"], ["threads", OURS, "", "PyTorch", ""], map(cells, results["rows"])),
        "",
        f"{measured_by('scaling')}.",
    ]


def device_training(*precisions: dict[str, Any]) -> list[str]:
    return [
        f"A whole training step of an LSTM model on {article(precisions[0]['machine']['device'].split(',')[0])}; medians, "
        "milliseconds. Where we round the factors of products to TF32, PyTorch may too.",
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
        "One recurrent layer, forward and all gradients, against torch.nn (cuDNN) on the same device; milliseconds.",
        "",
        *table(["cell", "streams, steps, units"], ["ours float32", "tf32", "cuDNN float32", "tf32", "fp16"], (
            [*key, *(f"{cells[column]:.2f}" for column in columns)] for key, cells in found.items())),
        "",
        "Measured by `benchmarks/device.sh`, which first runs the tests on the device. Training steps were measured with one update on its way",
        "while the next is issued, which is switched off at present.",
    ]


TABLES: dict[str, tuple[Callable[..., list[str]], tuple[str, ...]]] = {  # and the result files that each is made of
    "training": (training, ("training",)),
    "listing": (listing, ("listing",)),
    "generation": (generation, ("generation",)),
    "scoring": (scoring, ("scoring",)),
    "startup": (startup, ("startup",)),
    "memory": (memory, ("memory",)),
    "scaling": (scaling, ("scaling",)),
    "device training": (device_training, (f"training-{DEVICE}-float32", f"training-{DEVICE}-tf32")),
    "device layers": (device_layers, (f"layers-{DEVICE}",)),
}


def table(left: list[str], right: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Columns of words to the left, columns of numbers to the right."""
    rule = "|" + "---|" * len(left) + "---:|" * len(right)
    return [line([*left, *right]), rule, *map(line, rows)]


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def measured_by(name: str) -> str:
    return f"Measured by `python -m benchmarks.{TRACKED[name]}`"


def size(row: Mapping[str, Any]) -> str:
    shape = row["shape"]
    return f"{row['row']}: {shape['layers']} × {shape['hidden']}, vocabulary {shape['vocabulary']:,}"


def median(row: Mapping[str, Any], who: str) -> float:
    return float(row["milliseconds"][who]["median"])


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}×"


def on(results: Mapping[str, Any]) -> str:
    return f"{results['machine']['threads']} threads of {article(results['machine']['processor'])}"


def article(name: str) -> str:
    return ("an " if name.startswith((*"AEIOU", "NVIDIA")) else "a ") + name


def main() -> None:
    text = README.read_text()
    for name, (make, files) in TABLES.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        missing = [file for file in files if not (RESULTS / f"{file}.json").exists()]
        if missing:
            print(f"the table {name!r} stays as it is: there is no {missing[0]}.json in {RESULTS}")
        elif not pattern.search(text):
            print(f"the table {name!r} has no place in {README}: <!-- table: {name} --> and <!-- end -->")
        else:
            found = "\n".join(make(*(json.loads((RESULTS / f"{file}.json").read_text()) for file in files)))
            text = pattern.sub(lambda match, found=found: f"{match[1]}{found}\n{match[2]}", text)
    replace(README, text)


if __name__ == "__main__":
    main()
