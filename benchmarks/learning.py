"""What is learned with one budget: characters against words as input, one head of attention or none, and all architectures and cells.

    NUMBA_RNNLM_DATA=folder python -m benchmarks.learning --tables cells --out learning-cells
    python -m benchmarks.learning --tables words attention

words       WikiText-2, the 10,000 most frequent words, an LSTM of 2 × 200 with the vectors of words or with those that a convolution computes from their
            characters, equal epochs: perplexity of the validation text, and of the tenth of its words that are rarest in the training text
attention   enwik6 in bytes, the same number of weights with and without a head of attention, equal epochs: bits per byte
cells       tiny-shakespeare in characters, 180 seconds each: nats per character

Each row is one run of ``train``; the table shows its options. A short run before it compiles the kernels.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from numba_rnnlm import LanguageModel

from .harness import environment, parser, read, write_results

TEXTS = {"words": "wikitext-2", "attention": "enwik6", "cells": "tinyshakespeare"}
SEGMENTS = "--dropout 0.1 --streams 20 --steps 50"
RNN = f"--hidden 256 {SEGMENTS}"
COMMON = {
    "words": "--tokenizer word --max-vocabulary 10000 --hidden 200 --layers 2 --dropout 0.2 --streams 20 --steps 35 --epochs 2",
    "attention": "--tokenizer byte --dropout 0.1 --streams 16 --steps 256 --epochs 6 --learning-rate 3e-3",
    "cells": "--tokenizer char --epochs 300 --max-seconds 180",
}


def lstm(units: int) -> dict[str, Any]:
    return {"class": "LSTM", "units": units, "return_sequences": True}


HEAD = {"class": "Residual", "layers": [{"class": "LayerNormalization"}, {
    "class": "MultiHeadAttention", "num_heads": 1, "key_dim": 64, "use_causal_mask": True, "window": 512}]}
ROWS: dict[str, dict[str, str | list[dict[str, Any]]]] = {  # table → name → options, or layers
    "words": {"vectors of words": "--embedding 200", "characters": "--architecture char-cnn"},
    "attention": {"without": [lstm(266), lstm(266)], "one head": [lstm(256), HEAD, lstm(256)]},
    "cells": {
        "lstm": RNN, "gru": f"--cell gru {RNN}", "tanh": f"--cell tanh {RNN}", "relu": f"--cell relu {RNN}",
        **{cell: f"--cell {cell} --layers 3 {RNN}" for cell in ("mingru", "minlstm", "sru", "qrnn", "indrnn")},
        "tcn": f"--architecture tcn --hidden 128 --layers 5 {SEGMENTS}",
        "sha-rnn": f"--architecture sha-rnn --hidden 256 --embedding 256 --layers 2 --window 256 {SEGMENTS}",
    },
}


def main() -> None:
    flags = parser("Train with one budget and compare what is learned.")
    flags.add_argument("--tables", nargs="+", choices=ROWS, default=list(ROWS))
    flags.add_argument("--only", nargs="+", help="these rows of the tables")
    flags.add_argument("--seed", type=int, default=1)
    options = read(flags, "learning")
    if options.peer:
        raise SystemExit("--peer is given, but peers are not trained here. Nothing was measured.")
    folder = os.environ.get("NUMBA_RNNLM_DATA")
    if folder is None:
        raise SystemExit("NUMBA_RNNLM_DATA is not set; set it to the folder that contains wikitext-2, enwik6 and tinyshakespeare. Nothing was measured.")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for table in options.tables:
            for row, arguments in ROWS[table].items():
                if not options.only or row in options.only:
                    rows.append({"table": table, "row": row} | measure(Path(folder, TEXTS[table]), Path(name), table, arguments, options))
                    print(rows[-1], flush=True)
    write_results("learning", options, rows)


def measure(texts: Path, folder: Path, table: str, arguments: Any, options: Any) -> dict[str, Any]:
    chosen = COMMON[table].split()
    if isinstance(arguments, str):
        chosen += arguments.split()
    else:
        (folder / "body.json").write_text(json.dumps(arguments))
        chosen += ["--body", str(folder / "body.json")]
    train = ["train", texts / "train.txt", "--valid", texts / "valid.txt", "--out", folder / "model.npz", "--overwrite", *chosen, "--seed", options.seed]
    command(options, *train, "--max-seconds", "5")  # compiles
    printed = command(options, *train)
    model = LanguageModel.load(folder / "model.npz")
    shown = " ".join(chosen).replace(str(folder / "body.json"), f"'{json.dumps(arguments)}'")
    found = {"command": shown, "weights": sum(array.size for array in model.network_.parameters.values()),
             "epochs": [line.split()[1] for line in printed.splitlines() if line.startswith("epoch")][-1]}
    for part in ("valid", "test"):
        measured = json.loads(command(options, "eval", folder / "model.npz", texts / f"{part}.txt", "--json"))
        found |= {f"{part} {key}": measured[key] for key in ("nats_per_token", "perplexity", "bits_per_byte")}
    return found | ({"perplexity of the rarest tenth": rarest(model, texts)} if table == "words" else {})


def rarest(model: LanguageModel, texts: Path, part: float = 0.1) -> float:
    """The perplexity of the tenth of the validation text's words that are rarest in the training text, unknown ones left out."""
    counts = Counter((texts / "train.txt").read_text("utf-8").split())
    ids = model.tokenizer_.encode((texts / "valid.txt").read_text("utf-8"))
    network, steps, losses = model.network_, 500, []
    state = network.state(1)
    for first in range(0, len(ids) - 1, steps):
        last = min(first + steps, len(ids) - 1)
        losses.append(network.losses(ids[first:last, np.newaxis], ids[first + 1 : last + 1], state).copy())
    symbols = [model.tokenizer_.symbol(id) for id in range(model.tokenizer_.size)]
    known = np.array([0 if symbol == "<unk>" else counts[symbol] for symbol in symbols])
    seen, loss = known[ids[1:]], np.concatenate(losses)
    seen, loss = seen[seen > 0], loss[seen > 0]
    return float(np.exp(loss[np.argsort(seen, kind="stable")[: int(part * len(seen))]].mean()))


def command(options: Any, *arguments: object) -> str:
    """Run numba_rnnlm and return its output."""
    done = subprocess.run([sys.executable, "-m", "numba_rnnlm", *map(str, arguments), "--backend", options.backend], stdout=subprocess.PIPE, text=True,
                          env=environment(options.threads))
    if done.returncode not in (0, 3):  # 3: the seconds were over
        raise SystemExit(f"{' '.join(map(str, arguments))} ended with {done.returncode}; its error is above.")
    return done.stdout


if __name__ == "__main__":
    main()
