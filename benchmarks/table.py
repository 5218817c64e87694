"""Write the README's tables from the result files: python -m benchmarks.table"""

import json
import re
from typing import Any

from .harness import RESULTS, ROOT

README = ROOT / "README.md"


def training(results: dict[str, Any]) -> str:
    machine = results["machine"]
    lines = [
        "A whole training step (embedding, recurrent layers, softmax, loss, gradient, clipping, update), float32, "
        f"{machine['threads']} threads of {article(machine['processor'])}; medians, milliseconds.",
        "",
        "| model | cell | numba_rnnlm | PyTorch | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    for row in results["rows"]:
        shape, times = row["shape"], {who: spread["median"] for who, spread in row["milliseconds"].items()}
        size = f"{row['row']}: {shape['layers']} × {shape['hidden']}, vocabulary {shape['vocabulary']:,}"
        lines.append(f"| {size} | {row['cell']} | {times['numba_rnnlm']:.1f} | {times['torch']:.1f} "
                     f"| {row['ratio']['torch']:.1f}× |")
    lines += ["", "Measured by `python -m benchmarks.training --cells lstm gru tanh --peer torch`, which first checks "
              "that both compute the same loss and gradient."]
    return "\n".join(lines)


def device_training(results: dict[str, dict[str, Any]]) -> str:
    first = next(iter(results.values()))
    lines = [
        f"A whole training step of an LSTM model on {article(first['machine']['device'].split(',')[0])}; medians, "
        "milliseconds. Where we round the factors of products to TF32, PyTorch may too.",
        "",
        "| model | precision | numba_rnnlm | PyTorch | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    for precision in ("float32", "tf32"):
        for row in results[precision]["rows"]:
            shape, times = row["shape"], {who: spread["median"] for who, spread in row["milliseconds"].items()}
            size = f"{row['row']}: {shape['layers']} × {shape['hidden']}, vocabulary {shape['vocabulary']:,}"
            lines.append(f"| {size} | {precision} | {times['numba_rnnlm']:.2f} | {times['torch']:.2f} "
                         f"| {row['ratio']['torch']:.1f}× |")
    return "\n".join(lines)


def device_layers(results: dict[str, Any]) -> str:
    lines = [
        "One recurrent layer, forward and all gradients, against torch.nn (cuDNN) on the same device; milliseconds.",
        "",
        "| cell | streams, steps, units | ours float32 | tf32 | cuDNN float32 | tf32 | fp16 |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in results["rows"]:
        if row["backward"]:
            times = {who: spread["median"] for who, spread in row["milliseconds"].items()}
            cells = found.setdefault((row["cell"], f"{row['streams']}, {row['steps']}, {row['hidden']}"), {})
            cells[f"cuDNN {row['peer_precision']}"] = times["torch"]
            if row["precision"] == row["peer_precision"]:
                cells[f"ours {row['precision']}"] = times["numba_rnnlm"]
    for (cell, shape), cells in found.items():
        columns = ["ours float32", "ours tf32", "cuDNN float32", "cuDNN tf32", "cuDNN fp16"]
        lines.append(f"| {cell} | {shape} | " + " | ".join(f"{cells[column]:.2f}" for column in columns) + " |")
    return "\n".join([*lines, "", "Measured by `benchmarks/device.sh`, which first runs the tests on the device."])


def article(name: str) -> str:
    return ("an " if name.startswith((*"AEIOU", "NVIDIA")) else "a ") + name


def main() -> None:
    device = "nvidia-h100-80gb-hbm3"
    precisions = ("float32", "tf32")
    tables = {
        "training": training(read("training")),
        "device training": device_training({name: read(f"training-{device}-{name}") for name in precisions}),
        "device layers": device_layers(read(f"layers-{device}")),
    }
    text = README.read_text()
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda match, table=table: match[1] + table + "\n" + match[2], text)
    README.write_text(text)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


if __name__ == "__main__":
    main()
