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


def article(name: str) -> str:
    return ("an " if name[:1] in "AEIOU" else "a ") + name


def main() -> None:
    text = README.read_text()
    for name, table in {"training": training}.items():
        results = json.loads((RESULTS / f"{name}.json").read_text())
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda match, table=table, results=results: match[1] + table(results) + "\n" + match[2], text)
    README.write_text(text)


if __name__ == "__main__":
    main()
