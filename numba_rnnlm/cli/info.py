"""``numba-rnnlm info``."""

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__, backends, runs
from ..cells import BUILT_IN
from ..config import ModelConfig, filled
from ..display import amount
from ..errors import expect_number, expect_one_of, plain
from ..formats.native import read_about
from ..keras.compiled import LOSSES, METRICS
from ..language_model.architecture import build
from ..layers import LAYERS, Layer
from ..layers.description import cells_named, descriptions, rebuild
from ..model_files import fitting, open_kind
from ..network import Graph
from ..progress import duration
from ..states import TextState
from ..text import Tokenizer
from ..training.history import history_about, read_history
from .drawing import drawn
from .files import show_table
from .flags import Arguments, add_command, path, quoted

SHOWN_SYMBOLS = 20
LONGEST = 20  # characters of a symbol to show
LONGEST_VALUE = 200  # characters of an argument; a longer one is an error


def add(commands: Any) -> None:
    command = add_command(
        commands, "info", run, "describe a model file or this system",
        "With a model: its configuration, size, vocabulary and training; with a checkpoint, how far the run is. Without one: versions, processor,\n"
        "threads and backends.",
        """examples:
  numba-rnnlm info
  numba-rnnlm info model.npz
  numba-rnnlm info model.npz --json""",
    )
    command.add_argument("model", type=path, nargs="?", metavar="MODEL", help="the file of a model, a checkpoint or a state")
    command.add_argument("--json", action="store_true", help="print one JSON object; for a model, with its whole vocabulary and history")


def run(args: Arguments) -> None:
    if args.model is None:
        about, show = about_system(), table_of_system
    else:
        describe, show = KINDS.get(str(read_about(args.model).get("kind")), KINDS["language_model"])
        about = describe(args.model)
    if args.json:
        sys.stdout.writelines(json.JSONEncoder(allow_nan=False).iterencode(about))  # in pieces, to save memory
        print()
    else:
        show_table(show(about))
        if lines := about.get("network"):
            print("network", *lines, sep="\n  ")


def about_system() -> dict[str, Any]:
    return {
        "version": __version__, "python": platform.python_version(), "numpy": version("numpy"), "numba": version("numba"),
        "llvmlite": version("llvmlite"), "threads": backends.get("cpu").threads, "backends": list(backends.available()), **backends.about(),
    }


def table_of_system(about: dict[str, Any]) -> dict[str, Any]:
    return {
        "numba-rnnlm": about["version"], "Python": about["python"], "NumPy": about["numpy"],
        "Numba": f"{about['numba']} (llvmlite {about['llvmlite']})", "threads": about["threads"],
        "backends": ", ".join(about["backends"]), **backends.about(),
    }


def about_model(path: Path) -> dict[str, Any]:
    """Describe the file of a language model by plain values for JSON, as far as possible without the cells and layers of the program that
    wrote it."""
    with open_kind(path, "language_model") as file:
        header, weights = file.about, sum(array.size for array in file.group(runs.model_group(file)).values())
    recorded = {"texts": header.get("texts"), "training": header.get("training"), **about_run(str(path), header)}
    with fitting(str(path)):
        given = {**runs.MODEL_SETTINGS, **header["config"]}
        runs.expect_settings(given)
        settings = {name: given[name] for name in runs.MODEL_SETTINGS if name not in ("body", "precision")}
        if given["body"] is not None:
            for one in descriptions(given["body"]):
                _expect_call(one)
            settings["body"] = [as_call(layer) for layer in given["body"]]
        history, told = read_history(header.get("history")), header["tokenizer"]
        tokenizer = None if told is None else Tokenizer.from_dict(told)
        size = given["vocabulary_size"] if tokenizer is None else tokenizer.size
        sized = filled(ModelConfig, given | {"vocabulary_size": size})
        lines = _drawn(given["body"], [sized.cell], lambda body: build(sized, body=body))
        del given, header
    return {
        "network": lines,
        "file": str(path), "bytes": path.stat().st_size, "kind": "checkpoint" if "run" in recorded else "language_model",
        "weights": weights, "config": settings, "vocabulary": None if tokenizer is None else [tokenizer.symbol(id) for id in range(tokenizer.size)],
        "epochs": history["epoch"][-1] if history["epoch"] else 0, "history": history_about(history, clock=True),
        **recorded,
    }


def _drawn(layers: Any, cells: Sequence[str], graph: Callable[[list[Layer] | None], Graph]) -> list[str]:
    """The network drawn as text; nothing if it has layers or cells of the program that wrote the file."""
    known = all(one["class"] in LAYERS if "class" in one else one["cell"] in BUILT_IN for one in descriptions(layers))
    if not known or not {*cells, *cells_named(layers, LAYERS)} <= BUILT_IN:
        return []
    return drawn(graph(None if layers is None else [rebuild(layer, LAYERS, {}) for layer in layers]))


def about_run(name: str, header: dict[str, Any]) -> dict[str, Any]:
    """Describe the training in a checkpoint; empty if this is the header of a model."""
    if "run" not in header:
        return {}
    run = runs.run_of(name, header)
    return {"run": {"position": run.at.about(), "place": run.place, "computed_on": run.rounding, "texts": run.texts, "training": run.training,
                    "model": header["run"]["model"]}}


def table_of_model(about: dict[str, Any]) -> dict[str, Any]:
    rows = {"file": f"{about['file']} ({amount(about['bytes'])})", "weights": f"{about['weights']:,}"}
    if "run" in about:
        rows |= table_of_run(about["run"], f"train CORPUS --resume {quoted(about['file'])}", about["file"])
    if (symbols := about["vocabulary"]) is not None:
        first = " ".join(f"'{symbol[:LONGEST]}{'...' * (len(symbol) > LONGEST)}'" for symbol in symbols[:SHOWN_SYMBOLS])
        rows["vocabulary"] = f"{len(symbols):,} symbols: {first}{' ...' * (len(symbols) > SHOWN_SYMBOLS)}"
    if about["epochs"]:
        last = {column: values[-1] for column, values in about["history"].items()}
        rows["epochs trained"] = plain(about["epochs"])
        rows["last epoch"] = f"loss {last['loss']:.4f} nats/token" if last["loss"] is not None else "no loss"
        if last["valid_loss"] is not None:
            rows["last epoch"] += f", validation loss {last['valid_loss']:.4f}"
    return rows | {name: ", ".join(value) if name == "body" else value for name, value in about["config"].items() if value is not None}


def table_of_run(run: dict[str, Any], resume: str, name: str) -> dict[str, str]:
    """Rows that describe the state of the training in a checkpoint, which ``resume`` continues, or ``fit`` if there is no such command."""
    at, optimizer = run["position"], run["training"].get("optimizer")
    which = "the best epoch so far" if run["model"] == "good" else "the latest"
    if not resume or (isinstance(optimizer, dict) and optimizer.get("own")):
        resume = f"fit(..., {'optimizer=..., ' * bool(resume)}resume={name!r}) in Python"
    return {
        "checkpoint": f"{run['place']}; {at['updates']:,} updates in {duration(at['seconds'])}",
        **({"computed on": str(run["computed_on"])} if run["computed_on"] else {}),
        "optimizer": as_call(optimizer) if isinstance(optimizer, dict) else str(optimizer),
        "its model": f"{which}; {resume} continues the training" if not at["ended"] else which,
    }


def about_sequential(path: Path) -> dict[str, Any]:
    """Describe the file of a Sequential. Its layers and optimizer are checked as far as possible without the classes of the program that
    wrote it."""
    with open_kind(path, "sequential") as file:
        about, weights = file.about, file.group("weights")
    with fitting(str(path)):
        layers, compiled = [dict(layer) for layer in about["layers"]], about["compiled"] and dict(about["compiled"])
        for one in descriptions(layers):
            _expect_call(one)
        if compiled:
            _expect_call(compiled["optimizer"])
            for name in (compiled["loss"], *compiled["metrics"]):
                expect_one_of("loss or metric", name, (*LOSSES, *METRICS))
        expect_number("seed", about["seed"], 0, 2**63 - 1, whole=True)
        lines = _drawn(layers, [], lambda found: Graph(found or [], about["features"], about.get("steps"))) if layers else []
    return {
        "network": lines,
        "file": str(path), "bytes": path.stat().st_size, "kind": "sequential", "weights": sum(array.size for array in weights.values()),
        "layers": layers, "compiled": compiled, "seed": about["seed"], **about_run(str(path), about),
    }


def _expect_call(thing: Mapping[str, Any]) -> None:
    """Raise ValueError unless this is a class with its arguments, which are plain values, layers and cells; or a cell's name."""
    for name, value in thing.items():
        is_short = any(descriptions(value)) or len(str(value)) <= LONGEST_VALUE
        is_told = not isinstance(value, dict) or "class" in value or [*value] == ["cell"]
        if not name.isidentifier() or not isinstance(value, bool | int | float | str | list | dict | None) or not is_short or not is_told:
            raise ValueError(f"the argument {name!r} is {value!r}")
    if [*thing] == ["cell"] and isinstance(thing["cell"], str):
        return
    if not isinstance(thing["class"], str) or not thing["class"].isidentifier():
        raise ValueError(f"the class is {thing['class']!r}")


def table_of_sequential(about: dict[str, Any]) -> dict[str, Any]:
    rows = {"file": f"{about['file']} ({amount(about['bytes'])})", "weights": f"{about['weights']:,}"}
    if "run" in about:
        rows |= table_of_run(about["run"], "", about["file"])
    for number, layer in enumerate(about["layers"], 1):
        rows[f"layer {number}"] = as_call(layer)
    if compiled := about["compiled"]:
        rows |= {"optimizer": as_call(compiled["optimizer"]), "loss": compiled["loss"]}
        if compiled["metrics"]:
            rows["metrics"] = ", ".join(compiled["metrics"])
    return rows | {"seed": str(about["seed"])}


def about_state(path: Path) -> dict[str, Any]:
    """Describe the file of a state."""
    state = TextState.load(path)
    return {"file": str(path), "bytes": path.stat().st_size, "kind": "state", "texts": len(state), "positions": state.positions.tolist(), "weights": state.weights,
            "digest": state.digest}


def table_of_state(about: dict[str, Any]) -> dict[str, Any]:
    most = f"{max(about['positions'], default=0):,}"
    return {
        "file": f"{about['file']} ({amount(about['bytes'])})", "state after": f"{about['texts']:,} text{'s' * (about['texts'] != 1)}, of {most} symbols at most",
        "weights": about["weights"],
    }


KINDS = {"language_model": (about_model, table_of_model), "sequential": (about_sequential, table_of_sequential), "state": (about_state, table_of_state)}


def as_call(thing: dict[str, Any]) -> str:
    """A layer or an optimizer written as a Python call."""
    options = ", ".join(f"{name}={as_value(value)}" for name, value in thing.items() if name not in ("class", "own", "rule") and value is not None)
    return f"{thing['class']}({options})"


def as_value(value: Any) -> str:
    """An argument written as Python code."""
    if isinstance(value, dict):
        return as_call(value) if "class" in value else repr(value["cell"])
    return f"[{', '.join(map(as_value, value))}]" if isinstance(value, list) else repr(value)
