"""Held-out perplexity and seconds of a training with default settings, on the command line, for six texts of 3 KB to 10 MB.

    NUMBA_RNNLM_DATA=folder python -m benchmarks.defaults
    python -m benchmarks.defaults --texts english-3k code-100k --turns 3

The same model is also trained with fixed settings: 10 epochs, 50 streams, 50 steps. The last 5 % of each text, split off at a newline, are
held out; they select the best epoch and are used for the perplexity. The code texts are the standard library of the running Python; the
other texts are in the folder NUMBA_RNNLM_DATA. Every turn uses another seed. Seconds are those of the command ``train`` with all kernels
compiled beforehand; processor seconds, summed over threads, are more reliable if other programs are running.
"""

import json
import os
import re
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .harness import environment, parser, read, spread, write_results

HELD_OUT = 0.05
SETTINGS = {"fixed": ["--epochs", "10", "--streams", "50", "--steps", "50"], "default": []}
PLAN = re.compile(r"([\d,]+) tokens: epochs (\d+), streams (\d+), steps (\d+), ([\d,]+) updates")


def shakespeare() -> bytes:
    return data("tinyshakespeare", "input.txt")


def chinese() -> bytes:
    return data("zh-hongloumeng", "train.txt")


def code() -> bytes:
    """The modules of the standard library without its tests, concatenated."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = (path.relative_to(folder) for path in folder.rglob("*.py"))
    chosen = sorted(name for name in names if not {"test", "tests", "idlelib", "site-packages"} & set(name.parts))
    return b"".join((folder / name).read_bytes() for name in chosen)


def data(*names: str) -> bytes:
    folder = os.environ.get("NUMBA_RNNLM_DATA")
    if folder is None:
        raise SystemExit(f"NUMBA_RNNLM_DATA is not set; set it to the folder that contains {'/'.join(names)}. Nothing was measured.")
    return Path(folder, *names).read_bytes()


class Text(NamedTuple):
    tokenizer: str
    source: Callable[[], bytes]
    bytes: int


TEXTS = {
    "english-3k": Text("char", shakespeare, 3_000),
    "english-35k": Text("char", shakespeare, 35_000),
    "code-100k": Text("byte", code, 100_000),
    "words-350k": Text("word", shakespeare, 350_000),
    "chinese-2m": Text("char", chinese, 2_500_000),
    "code-10m": Text("byte", code, 10_000_000),
}


def main() -> None:
    flags = parser("Train with default settings and with fixed settings.")
    flags.set_defaults(turns=1)
    flags.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS), help="texts to train on")
    options = read(flags, "defaults")
    if options.peer:
        raise SystemExit("--peer is given, but peers do not have these defaults. Nothing was measured.")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("train", "valid"):
            (folder / f"small.{part}").write_bytes(b"to be or not to be\n" * 20)
        for tokenizer in sorted({TEXTS[text].tokenizer for text in options.texts}):
            train(folder, "small", tokenizer, ["--epochs", "1"], options)  # compiles the kernels
        for text in options.texts:
            save(folder, text)
            rows.append(measure(folder, text, options))
    write_results("defaults", options, rows)


def save(folder: Path, name: str) -> None:
    """Write the text to two files, NAME.train and NAME.valid."""
    source = TEXTS[name].source()[: TEXTS[name].bytes]
    text = source[: source.rindex(b"\n") + 1]
    border = text.rindex(b"\n", 0, round(len(text) * (1 - HELD_OUT))) + 1
    (folder / f"{name}.train").write_bytes(text[:border])
    (folder / f"{name}.valid").write_bytes(text[border:])


def measure(folder: Path, name: str, options: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"text": name, "tokenizer": TEXTS[name].tokenizer, "bytes": (folder / f"{name}.train").stat().st_size}
    for setting, arguments in SETTINGS.items():
        found = [train(folder, name, TEXTS[name].tokenizer, [*arguments, "--seed", str(seed)], options) for seed in range(options.turns)]
        row[setting] = found[0] | {key: spread([one[key] for one in found]) for key in ("perplexity", "seconds", "processor_seconds")}
        print(describe(row, setting), flush=True)
    return row


def train(folder: Path, name: str, tokenizer: str, arguments: list[str], options: Any) -> dict[str, Any]:
    """Train once; return the chosen settings, the seconds, and the held-out perplexity."""
    model, held_out = folder / "model.npz", folder / f"{name}.valid"
    model.unlink(missing_ok=True)
    start, before = time.perf_counter(), processor_seconds()
    printed = command(options, "train", folder / f"{name}.train", "--valid", held_out, "--tokenizer", tokenizer, "--out", model, *arguments)
    seconds, busy = time.perf_counter() - start, processor_seconds() - before
    found = PLAN.search(printed)
    if found is None:
        raise SystemExit(f"train did not print its settings as expected; it printed {printed!r}")
    tokens, epochs, streams, steps, updates = (int(number.replace(",", "")) for number in found.groups())
    measured = json.loads(command(options, "eval", model, held_out, "--json"))
    return {"tokens": tokens, "epochs": epochs, "streams": streams, "steps": steps, "updates": updates,
            "perplexity": measured["perplexity"], "bits_per_byte": measured["bits_per_byte"], "seconds": seconds, "processor_seconds": busy}


def processor_seconds() -> float:
    """Processor seconds of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(options: Any, *arguments: object) -> str:
    """Run numba_rnnlm and return its output."""
    flags = ["--backend", options.backend]
    done = subprocess.run([sys.executable, "-m", "numba_rnnlm", *map(str, arguments), *flags], stdout=subprocess.PIPE, text=True,
                          env=environment(options.threads))
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))} ended with {done.returncode}; its error is above.")
    return done.stdout


def describe(row: dict[str, Any], setting: str) -> str:
    """Format one row as a line of text."""
    found = row[setting]
    return (f"{row['text']:12} {row['tokenizer']:5} {setting:8} epochs {found['epochs']:3}  streams {found['streams']:3}  steps {found['steps']:3}  "
            f"{found['updates']:7,} updates  perplexity {found['perplexity']['median']:8.3f}  {found['seconds']['median']:7.1f} s, "
            f"{found['processor_seconds']['median']:7.1f} processor s")


if __name__ == "__main__":
    main()
