"""``numba-rnnlm info``."""

import platform
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

from .. import __version__, backends
from ..errors import ModelFileError
from ..language_model import MACHINE, LanguageModel
from ..progress import duration
from ..runs import Run, read_run
from ..storage import open_model, read_about
from .files import show_table, size
from .flags import Arguments, add_command

SHOWN_SYMBOLS = 20


def add(commands: Any) -> None:
    command = add_command(
        commands, "info", run, "what a model file holds, or what this machine offers",
        "Without a model: versions, processor, threads, backends. With one: its configuration, size, vocabulary and "
        "training.",
        """examples:
  numba-rnnlm info
  numba-rnnlm info model.npz""",
    )
    command.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="a model file")


def run(args: Arguments) -> None:
    if args.model is None:
        show_table({
            "numba-rnnlm": __version__,
            "Python": platform.python_version(),
            "NumPy": version("numpy"),
            "Numba": f"{version('numba')} (llvmlite {version('llvmlite')})",
            "threads": backends.get("cpu").threads,
            "backends": ", ".join(backends.available()),
            **backends.about(),
        })
        return
    if read_about(args.model).get("kind") == "sequential":
        show_table(about_sequential(args.model))
        return
    model = LanguageModel.load(args.model, backend="cpu")
    rows = {"file": f"{args.model} ({size(args.model)})", "weights": f"{model.parameter_count:,}"}
    if "run" in read_about(args.model):
        rows |= about_run(read_run(args.model))
    if (tokenizer := model.tokenizer_) is not None:
        first = " ".join(f"'{tokenizer.symbol(id)}'" for id in range(min(SHOWN_SYMBOLS, tokenizer.size)))
        rows["vocabulary"] = f"{tokenizer.size:,} symbols: {first}{' ...' * (tokenizer.size > SHOWN_SYMBOLS)}"
    if model.history_["epoch"]:
        last = {column: values[-1] for column, values in model.history_.items()}
        rows["epochs trained"] = f"{last['epoch']:.0f}"
        rows["last epoch"] = f"loss {last['loss']:.4f} nats/token"
        if isfinite(last["valid_loss"]):
            rows["last epoch"] += f", validation loss {last['valid_loss']:.4f}"
    # Nothing of the machine: a file does not depend on it.
    show_table(rows | {name: value for name, value in model.get_params().items()
                   if name not in MACHINE and value is not None})


def about_run(run: Run) -> dict[str, str]:
    """Where the training of a checkpoint stood."""
    at = run.at
    which = "the best epoch so far" if run.about["run"]["model"] == "good" else "the latest"
    optimizer = run.training.get("optimizer")
    own = isinstance(optimizer, dict) and optimizer.get("own")
    resume = f"fit(..., optimizer=..., resume={run.name!r}) in Python" if own else f"train CORPUS --resume {run.name}"
    return {
        "checkpoint": f"{run.place}; {at.updates:,} updates in {duration(at.seconds)}",
        **({"computed on": str(run.rounding)} if run.rounding else {}),
        "optimizer": as_call(optimizer) if isinstance(optimizer, dict) else str(optimizer),
        "its model": f"{which}; {resume} continues the training" if not at.ended else which,
    }


def about_sequential(path: Path) -> dict[str, str]:
    with open_model(path) as file:
        about, weights = file.about, file.group("weights")
    rows = {"file": f"{path} ({size(path)})", "weights": f"{sum(array.size for array in weights.values()):,}"}
    try:
        for number, layer in enumerate(about["layers"], 1):
            rows[f"layer {number}"] = as_call(layer)
        if (compiled := about["compiled"]) is not None:
            rows |= {"optimizer": as_call(compiled["optimizer"]), "loss": compiled["loss"]}
            if compiled["metrics"]:
                rows["metrics"] = ", ".join(compiled["metrics"])
        rows["seed"] = str(about["seed"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{str(path)!r} is damaged: its parts do not fit together.") from error
    return rows


def as_call(thing: dict[str, Any]) -> str:
    """A layer or an optimizer as it is written in Python."""
    options = ", ".join(f"{name}={value!r}" for name, value in thing.items() if name not in ("class", "own", "rule") and value is not None)
    return f"{thing['class']}({options})"
