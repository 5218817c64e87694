"""The command line: commands as a user types them, run in this process, or in a real process where that matters."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numba
import numpy as np
import pytest
from checks import HANG, without_notice
from hypothesis import given
from hypothesis import strategies as st

import numba_rnnlm
from numba_rnnlm import LanguageModel, Sequential, backends, cli, demo, suggestions
from numba_rnnlm.callbacks import LambdaCallback
from numba_rnnlm.cells import CELLS
from numba_rnnlm.cli import main
from numba_rnnlm.cli.destination import free_names
from numba_rnnlm.cli.flags import OPTIONS, with_flags
from numba_rnnlm.cli.flags import given as given_flags
from numba_rnnlm.config import (
    OPTIMIZERS,
    WEIGHTS,
    CheckpointConfig,
    ModelConfig,
    SamplingConfig,
    TextConfig,
    TrainingConfig,
    UnknownConfig,
)
from numba_rnnlm.errors import ConfigError, DivergenceError, ModelFileError
from numba_rnnlm.formats.native import read_about, write_model
from numba_rnnlm.interrupts import Interrupted
from numba_rnnlm.layers import GRU, LSTM, QRNN, Dense, Embedding, LayerNormalization, Recurrent, Residual
from numba_rnnlm.layers.description import describe
from numba_rnnlm.storage import locked
from numba_rnnlm.text import Text, open_source, sources
from numba_rnnlm.text.sources import Part
from numba_rnnlm.training.clock import Clock
from numba_rnnlm.training.loop import Trainer
from numba_rnnlm.training.streams import make_optimizer

TEXT = "the cat sees the dog\nthe dog sees the cat\n" * 40
HELD_OUT = "the dog sees the dog\nthe cow sees the cat\n"
SMALL = ["--hidden", "8", "--layers", "1", "--embedding", "4"]
BRIEF = ["--streams", "4", "--steps", "10", "--epochs", "2", "--validation-split", "0", "--verbose", "0"]
COMMANDS = ("train", "eval", "score", "generate", "info", "warmup", "demo")
HOME = os.pathsep.join(filter(None, [str(Path(numba_rnnlm.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
CONFIGS = [(ModelConfig, "train"), (TextConfig, "train"), (TrainingConfig, "train"), (SamplingConfig, "generate"),
           (UnknownConfig, "score")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with texts and with models of characters, words, bytes and ids."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(TEXT)
    (folder / "held_out.txt").write_text(HELD_OUT)
    for tokenizer in ("char", "word", "byte"):
        train = ["train", str(folder / "text.txt"), "--tokenizer", tokenizer, "--out", str(folder / f"{tokenizer}.npz")]
        assert main([*train, *SMALL, *BRIEF]) == 0
    ids = LanguageModel(hidden=4, layers=1, embedding=4, tokenizer=None, vocabulary_size=5)
    ids.network_  # noqa: B018 (builds it)
    ids.save(folder / "ids.npz")
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    capsys.readouterr()


def typed(monkeypatch, data: bytes) -> None:
    """Put data on standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def process(*arguments: str, **options) -> subprocess.Popen:
    """Run the command line in its own process."""
    return subprocess.Popen(
        [sys.executable, "-m", "numba_rnnlm", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": HOME}, **options,
    )


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# flags


@pytest.mark.parametrize(("config", "command"), CONFIGS)
def test_every_field_is_a_flag_with_its_name_and_help(config, command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")  # so that no help text is wrapped
    assert main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for item in fields(config):
        if item.name == "vocabulary_size":  # for corpora of ids, which the command line does not read
            assert flag(item.name) not in shown
            continue
        assert f"{flag(item.name)} " in shown or f"{flag(item.name)}," in shown
        if item.name == "cell":  # registered cells are available in Python only
            assert f"--cell {{{','.join(CELLS)}}} recurrent cell (default: lstm)" in shown
            continue
        assert " ".join(item.metadata["help"].split()) in shown
        if item.default is not None and not isinstance(item.default, bool):
            assert f"(default: {item.default})" in shown


def values(item) -> st.SearchStrategy:
    """Values for a flag."""
    kind = item.metadata["type"] or type(item.default)
    if item.metadata["choices"]:
        return st.sampled_from(item.metadata["choices"])
    strategies = {
        bool: st.booleans(), int: st.integers(-10, 10**9), float: st.floats(allow_nan=False),
        str: st.sampled_from(list(CELLS)),
    }
    return strategies[kind]


@pytest.mark.parametrize(("config", "command"), CONFIGS)
@given(data=st.data())
def test_flags_are_parsed_to_the_given_values(config, command, data):
    items = [item for item in fields(config) if item.name != "vocabulary_size"]
    wanted = data.draw(st.fixed_dictionaries({}, optional={item.name: values(item) for item in items}))
    arguments = []
    for name, value in wanted.items():
        if isinstance(value, bool):
            arguments.append(flag(name) if value else flag(f"no-{name}"))
        else:
            arguments.append(f"{flag(name)}={value}")
    args = cli.parser().parse_args([command, "a file", *arguments])
    assert given_flags(args, config) == wanted


def test_all_flags_of_train_reach_the_model_and_the_training(monkeypatch):
    model = {"cell": "gru", "hidden": 7, "layers": 3, "embedding": 5, "dropout": 0.25, "tied": True, "forget_bias": 2.0,
             "initializer": "uniform", "initializer_scale": 0.5, "architecture": "tcn", "kernel": 2, "window": 3}
    text = {"tokenizer": "word", "min_count": 2, "max_vocabulary": 9, "line_ends": "keep"}
    training = {"epochs": 3, "streams": 2, "steps": 4, "optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.5,
                "weight_decay": 0.125, "schedule": "cosine", "warmup": 0.5, "decay_factor": 3.0, "decay_after": 1,
                "clip_norm": 2.0, "clip_value": 4.0, "reduction": "sum_time", "accumulate": 2, "patience": 6, "validation_split": 0.0, "validate_every": 9,
                "max_seconds": 8.0, "not_finite": "skip", "extend_vocabulary": True, "verbose": 0}
    keeping = {"checkpoint": "run.npz", "checkpoint_every": "2h", "log": "log.csv"}
    assert set(text) == {item.name for item in fields(TextConfig)}
    assert set(model) == {item.name for item in fields(ModelConfig)} - {"vocabulary_size"}
    assert set(training) == {item.name for item in fields(TrainingConfig)}
    calls = []

    def fit(self, corpus, valid, *configs, interrupts, prepare):
        assert not interrupts.is_set() and callable(prepare)
        calls.append((self.get_params(), corpus.name, valid.name, *configs))
        raise ConfigError("seen enough")

    monkeypatch.setattr(LanguageModel, "fit_config", fit)
    options = {"backend": "reference", "threads": 2, "precision": "float32", "seed": 11}
    given = {**model, **text, **training, **keeping, **options}
    arguments = [flag(name) if value is True else f"{flag(name)}={value}" for name, value in given.items()]
    assert main(["train", "text.txt", "--valid", "held_out.txt", *arguments]) == 2  # the exit code of ConfigError
    params = {**model, **text, **options, "vocabulary_size": None, "body": None}
    assert calls == [(params, "text.txt", "held_out.txt", TrainingConfig(**training), CheckpointConfig(**keeping))]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_in_the_help_are_valid_commands(command, capsys):
    assert main([command, "--help"]) == 0
    examples = capsys.readouterr().out.split("examples:\n")[1].splitlines()
    assert examples
    for line in examples:
        typed = re.split(r" {3,}| [|<] ", line.partition("numba-rnnlm ")[2])[0]  # without comments and redirections
        assert typed.split()[0] == command
        cli.parser().parse_args(shlex.split(typed))


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {command} " in shown for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"numba-rnnlm {numba_rnnlm.__version__}\n"


@pytest.mark.parametrize("arguments", [
    ["fly"], ["train"], ["train", "text.txt", "--hid", "3"], ["train", "text.txt", "--hidden", "many"],
    ["train", "text.txt", "--tokenizer", "None"], ["train", "text.txt", "--cell", "square"], ["train", "text.txt", "--vocabulary-size", "9"],
    ["generate", "char.npz", "--unknown", "skip"], ["score", "char.npz", "--per-token", "--normalize"],
    ["generate", "char.npz", "the", "--prompt", "the"], ["generate", "char.npz", "the", "cat"],
    ["generate", "char.npz", "--temperature", "0", "--samples", "3"], ["train", "text.txt", "--from", "a", "--seed=1"],
    ["generate", "char.npz", "--weights", "int4"], ["eval", "char.npz", "text.txt", "--weights", "int4"],
    ["warmup", "--cells", "square"], ["warmup", "--optimizers", "lion"], ["warmup", "--cells"],
    ["train", ""], ["train", "text.txt", ""], ["train", "text.txt", "--out", ""], ["train", "text.txt", "--valid", ""], ["train", "text.txt", "--from", ""],
    ["eval", "", "text.txt"], ["score", "char.npz", ""], ["generate", ""], ["info", ""], ["demo", "--out", ""],
    ["generate", "char.npz", "-the"], ["generate", "char.npz", "--prompt", "-the"], ["info", "-m.npz"],
])
def test_wrong_usage_is_one_line(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    program = " ".join(["numba-rnnlm", *(word for word in arguments[:1] if word in COMMANDS)])
    assert out == "" and err.startswith(f"{program}: error: ") and err.endswith((f"; see {program} --help\n", f"? See {program} --help\n"))
    assert err.count("\n") == 1


def test_every_numeric_flag_rejects_other_values(capsys):
    commands = next(action.choices for action in cli.parser()._actions if action.metavar == "COMMAND")
    flags = [(command, action) for command, parser in commands.items() for action in parser._actions if action.type in (int, float)]
    assert len(flags) > 30
    for command, flag in flags:
        name, expected = flag.option_strings[0], "whole number such as 100" if flag.type is int else "number such as 0.5 or 1e-3"
        for value in ("many", "1e99" if flag.type is int else "1e", "9" * 5000 + "x"):
            assert main([command, "x", f"{name}={value}"]) == 2
            err = capsys.readouterr().err
            assert f"argument {name}: it is '{value[:9]}" in err and f"', expected a {expected}; see" in err and len(err) < 500


def test_without_arguments_the_program_prints_its_help(capsys):
    assert main([]) == 0
    printed = capsys.readouterr()
    assert main(["--help"]) == 0
    assert capsys.readouterr() == printed and printed.err == ""
    run = process()
    out, err = run.communicate(timeout=HANG)
    assert run.returncode == 0 and err == b"" and out.startswith(b"usage: numba-rnnlm ")


# suggestions


@pytest.mark.parametrize(("command", "given", "meant"), [
    ("train", given, meant) for names, meant in [
        ("--lr -lr --learning_rate --learningRate --LR", "--learning-rate"), ("--batch-size --batch_size --batch -b --bsz", "--streams"),
        ("--hidden-size --hidden_size --nhid --units --rnn-size --hiden", "--hidden"), ("--num-layers --nlayers --n_layers", "--layers"),
        ("--seq-len --bptt --timesteps --seq_length --num-steps", "--steps"), ("--emsize --embedding-dim --embed_dim", "--embedding"),
        ("--rnn-type --model", "--cell"), ("--optim --optimiser", "--optimizer"), ("--clip --grad-clip --clipnorm --max_grad_norm", "--clip-norm"),
        ("--max-epochs --epoch --num-epochs --epocs", "--epochs"), ("--wd --l2", "--weight-decay"), ("--tie-weights", "--tied"),
        ("--save --output -o --output-dir", "--out"), ("--validation-data --dev", "--valid"), ("--early-stopping", "--patience"),
        ("--device --gpu --cuda", "--backend"), ("--num-threads --workers", "--threads"), ("--dtype --fp16", "--precision"),
        ("--log-interval --eval-every", "--validate-every"), ("--time-limit", "--max-seconds"), ("--vocab-size", "--max-vocabulary"),
        ("--force -f", "--overwrite"), ("--chekpoint", "--checkpoint"), ("--save-every", "--checkpoint-every"), ("--log-file", "--log"),
    ] for given in names.split()
] + [
    ("generate", "--temp", "--temperature"), ("generate", "--num-samples", "--samples"), ("generate", "--max-new-tokens", "--length"),
    ("generate", "--topk", "--top-k"), ("generate", "--nucleus", "--top-p"), ("eval", "--device", "--backend"), ("score", "--normalise", "--normalize"),
])  # fmt: skip
def test_a_flag_of_another_tool_suggests_ours(command, given, meant, capsys):
    assert main([command, "char.npz", *["text.txt"] * (command == "eval"), given + "=3"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == (f"numba-rnnlm {command}: error: unrecognized arguments: {given}=3; did you mean {meant}? "
                                 f"See numba-rnnlm {command} --help\n")


def test_several_flags_of_other_tools(capsys):
    assert main(["train", "text.txt", "--lr", "0.1", "--hidden", "9", "--batch-size", "20", "--zzz"]) == 2
    assert "did you mean --learning-rate for --lr, --streams for --batch-size? See numba-rnnlm train --help" in capsys.readouterr().err
    assert main(["eval", "char.npz", "text.txt", "--lr", "0.1"]) == 2  # eval has no such flag
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "meant"), [
    (["trian"], "train"), (["Train"], "train"), (["evaluate"], "eval"), (["sample"], "generate"), (["scroe"], "score"), (["fit"], "train"),
    (["train", "t", "--cell", "RNN"], "tanh"), (["train", "t", "--cell", "SimpleRNN"], "tanh"), (["train", "t", "--cell", "lstn"], "lstm"),
    (["train", "t", "--cell", "RNN_RELU"], "relu"), (["train", "t", "--tokenizer", "words"], "word"), (["train", "t", "--tokenizer", "character"], "char"),
    (["train", "t", "--optimizer", "Adamm"], "adam"), (["train", "t", "--schedule", "ReduceLROnPlateau"], "plateau"),
    (["train", "t", "--backend", "gpu"], "cuda"), (["train", "t", "--precision", "bfloat16"], "bf16"), (["warmup", "--cells", "ltsm"], "lstm"),
])  # fmt: skip
def test_a_value_of_another_tool_suggests_ours(arguments, meant, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"; did you mean {meant}? See numba-rnnlm" in err and err.count("\n") == 1


@pytest.mark.parametrize(("flag", "value"), [
    ("--cell", "LSTM"), ("--tokenizer", "Word"), ("--optimizer", "Adam"), ("--optimizer", "SGD"), ("--schedule", "Cosine"), ("--backend", "CPU"),
    ("--precision", "BF16"), ("--initializer", "Glorot"), ("--reduction", "MEAN"), ("--not-finite", "Skip"),
])  # fmt: skip
def test_values_are_case_insensitive(flag, value):
    args = cli.parser().parse_args(["train", "text.txt", flag, value])
    assert getattr(args, flag[2:].replace("-", "_")) == value.lower()


def test_every_suggestion_exists():
    subparsers = next(action for action in cli.parser()._actions if action.dest == "==SUPPRESS==" or action.choices).choices
    flags = {name for command in subparsers.values() for action in command._actions for name in action.option_strings}
    assert set(suggestions.FLAGS) <= flags
    values = {str(value) for command in subparsers.values() for action in command._actions for value in action.choices or ()}
    assert set(suggestions.VALUES) <= values | set(subparsers)


# errors


@pytest.mark.parametrize("arguments", [
    ["train", "nowhere.txt", "--verbose", "0"], ["train", "text.txt", "--backend", "cpu", "--precision", "tf32"],
    ["train", "text.txt", "--valid", "nowhere.txt", "--verbose", "0"], ["train", "text.txt", "--from", "nowhere.npz"],
    ["eval", "nowhere.npz", "text.txt"], ["eval", "text.txt", "text.txt"], ["eval", "char.npz", "nowhere.txt"],
    ["score", "char.npz", "nowhere.txt"],
    ["generate", "char.npz", "--prompt", "a zebra"], ["generate", "char.npz", "--prompt", "\udcff"],
    ["info", "nowhere.npz"], ["info", "."], ["info", "text.txt"], ["demo", "--out", "text.txt"], ["demo", "--out", "nowhere/demo.npz"],
    ["eval", "ids.npz", "text.txt"], ["score", "ids.npz", "text.txt"], ["generate", "ids.npz"],
    ["train", "text.txt", "--from", "ids.npz"], ["warmup", "--backend", "reference"],
    ["warmup", "--backend", "cpu", "--precision", "tf32"], ["generate", "char.npz", "--backend", "reference", "--weights", "int8"],
])
def test_an_error_is_one_sentence_and_no_traceback(arguments, capsys):
    expect_error(arguments, 1, capsys)


@pytest.mark.parametrize("arguments", [
    ["train", "text.txt", "--hidden", "0"], ["train", "text.txt", "--threads", "0"], ["train", "text.txt", "--learning-rate", "nan"],
    ["train", "text.txt", "--max-seconds", "soon"], ["train", "text.txt", "--checkpoint", ""], ["train", "text.txt", "--log", "log.txt"],
    ["train", "text.txt", "--momentum", "0.5"], ["train", "text.txt", "--tokenizer", "byte", "--max-vocabulary", "9"],
    ["train", "text.txt", "--encoding", "utf-9"], ["train", "text.txt", "--valid", "held_out.txt", "--validation-split", "0.5"],
    ["eval", "char.npz", "text.txt", "--penalty", "1"], ["score", "char.npz", "text.txt", "--penalty", "-1", "--unknown", "penalize"],
    ["generate", "char.npz", "--temperature", "-1"], ["generate", "char.npz", "--samples", "0"], ["generate", "char.npz", "--top-p", "2"],
    ["demo", "--seconds", "0"], ["warmup", "--threads", "0"],
])
def test_an_invalid_value_is_wrong_usage_too(arguments, capsys):
    expect_error(arguments, 2, capsys)


def expect_error(arguments, code, capsys):
    """Assert that the command prints one sentence, ends with this exit code and writes nothing."""
    before = sorted(os.listdir())
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert err.startswith("numba-rnnlm: error: ") and err.count("\n") == 1 and err.endswith(".\n") and out == ""
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(("arguments", "message"), [
    (["generate", "char.npz", "--prompt", "zebra"], "give --unknown unk to read"),
    (["train", "latin1.txt", "--verbose", "0"], "with --tokenizer byte."),
    (["train", "text.txt", "--learning-rate", "0"], "error: --learning-rate is 0.0, expected"),
    (["train", "text.txt", "--backend", "cpu", "--precision", "tf32"], '--precision is "tf32", which needs a GPU; --backend cpu accepts'),
    (["generate", "char.npz", "--backend", "reference", "--weights", "int8"], "error: --weights is 'int8', which needs --backend cpu"),
    (["warmup", "--backend", "reference"], "choose another --backend"),
    (["demo", "--seconds", "0"], "error: --seconds is 0.0, expected"),
    (["train", "text.txt", "--tokenizer", "byte", "--max-vocabulary", "9"], "error: --max-vocabulary is 9 with --tokenizer byte, which"),
    (["train", "text.txt", "--tokenizer", "byte", "--min-count", "2"], "error: --min-count is 2 with --tokenizer byte, which"),
    (["train", "text.txt", "--hidden", "10000000000"], "error: --hidden is 10000000000, expected a whole number of at least 1 and at most"),
    (["eval", "text.txt", "char.npz"], "it is not a zip archive. Give the model first: numba-rnnlm eval char.npz text.txt"),
    (["score", "text.txt", "word.npz"], "Give the model first: numba-rnnlm score word.npz text.txt"),
    (["generate", "the cat", "char.npz"], "Give the model first: numba-rnnlm generate char.npz 'the cat'"),
    (["generate", "char.npz", "-the"], "write a prompt that begins with - as --prompt=-the; see"),
    (["generate", "char.npz", "--prompt", "-the"], "write a value that begins with - as --prompt=-VALUE; see"),
    (["train", ""], "argument CORPUS: it is empty, expected the name of a file"),
    (["score", "char.npz", "text.txt", "--eos"], "unrecognized arguments: --eos; see"),
    (["eval", "char.npz", "text.txt", "--eos"], "unrecognized arguments: --eos; see"),
])
def test_errors_name_flags_instead_of_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    if "latin1.txt" in arguments:
        monkeypatch.chdir(tmp_path)
        Path("latin1.txt").write_bytes(b"caf\xe9\n" * 100)
    assert main(arguments) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("message", [
    "the prompt has 'seed=3' at position 0.", "there is no model file '/steps=3/m.npz'.", "give colour='red'.",
    "the seed is lost.",
])
def test_text_that_is_not_an_argument_stays_unchanged(message):
    assert with_flags(message) == message


def test_calls_in_a_message_are_python():
    layer = "Residual(layers=(LSTM(units=3, dropout=0.0), Dense(4)), dropout=0.5)"
    assert with_flags(f"{layer} has hidden=3 (try hidden=4), window=5") == f"{layer} has --hidden 3 (try --hidden 4), window=5"


@given(st.sampled_from(sorted(OPTIONS)), st.from_regex(r"[a-z0-9.]*[a-z0-9]", fullmatch=True),
       st.sampled_from(["", "'", '"']))
def test_every_argument_becomes_its_flag(name, value, quote):
    message = f"{name} is wrong, try {name}={quote}{value}{quote}, or (another {name}={quote}{value}{quote})."
    expected = f"{flag(name)} is wrong, try {flag(name)} {value}, or (another {flag(name)} {value})."
    assert with_flags(message) == expected


@pytest.mark.parametrize(("error", "code"), [
    (KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1), (MemoryError("too large"), 1),
])
def test_exit_codes(error, code, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(LanguageModel, "load", fail)
    assert main(["generate", "char.npz"]) == code
    message = f"error: {error}" if code == 1 else "interrupted"
    assert capsys.readouterr().err == f"numba-rnnlm: {message}\n"


@pytest.mark.parametrize(("command", "cannot", "what"), [
    ("score char.npz", "Cannot", "standard input"), ("generate char.npz -", "cannot", "the prompt from standard input"),
    ("eval char.npz -", "Cannot", "standard input"),
])
def test_standard_input_that_cannot_be_read(command, cannot, what, monkeypatch, capsys):
    class Raw(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

    for stdin, words in ((io.TextIOWrapper(io.BufferedReader(Raw())), f"{cannot} read {what}: Input/output error."),
                         (None, "standard input is closed; give the name of a file, or redirect standard input.")):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(command.split()) == 1
        assert capsys.readouterr().err == f"numba-rnnlm: error: {words}\n"


def test_exit_codes_are_documented(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "exit codes of every command:" in out
    for code in (0, 1, 2, 3, 128):
        assert f"\n  {code} " in out


def test_out_must_not_be_the_checkpoint_of_an_unfinished_run(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run.npz"
    train = ["train", "text.txt", *SMALL, *BRIEF]
    with monkeypatch.context() as patch:
        patch.setattr("numba_rnnlm.training.loop.Trainer._train", lambda self: self._keep(first=True))
        assert main([*train, "--checkpoint", str(run), "--out", str(tmp_path / "m.npz")]) == 0
    before = run.read_bytes()
    assert main([*train, "--out", str(run)]) == 1
    assert f"--out is {str(run)!r}, the checkpoint of an unfinished run; it is not replaced" in capsys.readouterr().err and run.read_bytes() == before
    assert main(["train", "text.txt", "--resume", str(run), "--out", str(run), "--verbose", "0"]) == 0  # finishes the run
    assert LanguageModel.load(run).history_["epoch"] == [1, 2]


@pytest.mark.parametrize("kept", [False, True])
def test_a_model_that_cannot_be_saved_to_its_path_is_saved_elsewhere(kept, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    def missing():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "cwd", missing)  # the current folder was removed
    monkeypatch.setattr("tempfile.gettempdir", missing)
    for name in ("out", "home"):
        (tmp_path / name).mkdir()
    whole, train = tmp_path / "whole.npz", ["train", "text.txt", *SMALL, *BRIEF]
    assert main([*train, "--out", str(whole)]) == 0
    save = LanguageModel.save

    def full(self, path, **options):
        if Path(path).parent == tmp_path / "out":
            raise ModelFileError("cannot write it.")
        save(self, path, **options)

    monkeypatch.setattr(LanguageModel, "save", full)
    out = ["--out", str(tmp_path / "out" / "m.npz"), *(["--checkpoint", str(tmp_path / "out" / "run.npz")] if kept else [])]
    assert main([*train, *out]) == 1
    (found,) = (tmp_path / "home").glob("m-*.npz")
    assert capsys.readouterr().err == f"numba-rnnlm: error: cannot write it. The model is saved in {str(found)!r} instead.\n"
    assert found.read_bytes() == whole.read_bytes()
    found.unlink()
    monkeypatch.setattr(Path, "home", lambda: Path("~no such user").expanduser())
    (tmp_path / "out" / "run.npz").unlink(missing_ok=True)
    assert main([*train, *out]) == 1
    err = capsys.readouterr().err
    assert "error: cannot write it." in err and (f"--resume {tmp_path / 'out' / 'run.npz'} writes the model from it." in err) == kept


def test_bugs_raise_their_traceback(monkeypatch):
    monkeypatch.setattr(LanguageModel, "load", None)
    with pytest.raises(TypeError):
        main(["generate", "char.npz"])


def test_a_warning_is_one_line(capsys, tmp_path):
    out = str(tmp_path / "m.npz")
    assert main(["train", "held_out.txt", "--out", out, *SMALL, "--epochs", "1", "--streams", "50", "--steps", "50", "--verbose", "0", "--validation-split", "0"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("numba-rnnlm: warning: the corpus has ") and err.count("\n") == 1


# train


def test_train_gives_the_same_model_as_the_library(tmp_path, capsys):
    out = tmp_path / "m.npz"
    arguments = ["--seed", "3", "--streams", "4", "--steps", "10", "--epochs", "2"]
    assert main(["train", "text.txt", "--valid", "held_out.txt", "--out", str(out), *SMALL, *arguments]) == 0
    same = LanguageModel(hidden=8, layers=1, embedding=4, seed=3)
    same.fit(Path("text.txt"), Path("held_out.txt"), streams=4, steps=10, epochs=2, verbose=0)
    saved = LanguageModel.load(out)
    for name, weights in same.network_.weights().items():
        np.testing.assert_array_equal(saved.network_.weights()[name], weights)
    shown = capsys.readouterr().out
    best = min(same.history_["valid_loss"])
    assert f"validation loss {best:.4f} nats/token, perplexity {np.exp(best):.2f}" in shown
    assert f"{same.bits_per_character(HELD_OUT):.3f} bits/character" in shown
    assert shown.startswith("optimizer adam, learning rate 0.004, schedule linear\n")
    assert f"saved {out} (" in shown and f"{same.parameter_count:,} weights" in shown
    assert f"numba-rnnlm generate {out} --prompt TEXT" in shown and f"numba-rnnlm eval {out} held_out.txt" in shown


@pytest.mark.parametrize(("text", "words"), [("", "contains no symbols"), ("a", "expected at least 2")])
def test_an_error_in_the_text_is_the_only_output(text, words, tmp_path, capsys):
    (tmp_path / "text").write_text(text)
    arguments = [str(tmp_path / "text"), "--checkpoint", str(tmp_path / "c.npz"), "--resume", str(tmp_path / "c.npz")]
    assert main(["train", *arguments, "--out", str(tmp_path / "m.npz"), *SMALL]) == 1
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1


def test_train_without_validation_reports_the_training_loss(tmp_path, capsys):
    assert main(["train", "text.txt", "--out", str(tmp_path / "m.npz"), *SMALL, *BRIEF, "--verbose", "2"]) == 0
    loss = LanguageModel.load(tmp_path / "m.npz").history_["loss"][-1]
    assert f"training loss {loss:.4f} nats/token" in capsys.readouterr().out


def test_verbose_0_is_silent(tmp_path, capsys):
    (tmp_path / "known.txt").write_text("the dog sees the dog\n")
    assert main(["train", "text.txt", "--valid", str(tmp_path / "known.txt"), "--out", str(tmp_path / "m.npz"), *SMALL, *BRIEF]) == 0
    assert capsys.readouterr() == ("", "")


def test_train_from_continues(tmp_path):
    out = tmp_path / "m.npz"
    assert main(["train", "text.txt", "--from", "char.npz", "--out", str(out), *BRIEF]) == 0
    same = LanguageModel.load("char.npz").fit(Path("text.txt"), epochs=2, streams=4, steps=10, verbose=0, validation_split=0.05)
    saved = LanguageModel.load(out)
    assert saved.history_["epoch"] == [1, 2, 3, 4]
    for name, weights in same.network_.weights().items():
        np.testing.assert_array_equal(saved.network_.weights()[name], weights)


@pytest.mark.parametrize("given", [["--hidden", "128"], ["--body", "layers.json"], ["--no-tied"], ["--tokenizer", "char"], ["--seed", "0"]])
def test_train_from_rejects_settings_of_the_saved_model(given, tmp_path, capsys):
    assert main(["train", "text.txt", "--from", "char.npz", "--out", str(tmp_path / "m.npz"), *given]) == 2
    assert f"{given[0].replace('no-', '')} cannot be changed with --from" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["nowhere/m.npz", ".", "text.txt/m.npz", "text.txt", "./held_out.txt"])
def test_out_is_checked_before_training(out, monkeypatch, capsys):
    def fit(*arguments, **options):
        raise AssertionError("training began")

    monkeypatch.setattr(LanguageModel, "fit_config", fit)
    assert main(["train", "text.txt", "--valid", "held_out.txt", "--out", out]) == (2 if out in ("text.txt", "./held_out.txt") else 1)
    assert str(Path(out)) in capsys.readouterr().err
    assert Path("text.txt").read_text() == TEXT and Path("held_out.txt").read_text() == HELD_OUT


def test_paths_are_compared_as_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link.npz").symlink_to("model.npz")
    Path("texts").mkdir()
    Path("linked").symlink_to("texts")
    for avoid in ("model.npz", "./model.npz", "texts/../model.npz", str(tmp_path / "model.npz"), "link.npz"):
        assert next(free_names(Path("model.npz"), avoid=avoid)) == Path("model-2.npz")
    assert next(free_names(Path("model.npz"), avoid="other.npz")) == next(free_names(Path("model.npz"))) == Path("model.npz")
    Path("texts/a.txt").write_text("a\n")
    for folder in ("texts", "./texts", "linked", tmp_path / "linked"):
        opened = open_source(Path(folder))
        assert all(opened.holds(path) for path in ("texts/log.csv", "linked/log.csv", "texts/deeper/../log.csv", tmp_path / "texts/a.txt"))
        assert not opened.holds("texts.csv") and not opened.holds("texts/run.npz")


def test_only_models_are_overwritten(tmp_path, capsys):
    out = tmp_path / "m.npz"
    train = ["train", "text.txt", "--out", str(out), *SMALL, *BRIEF, "--verbose", "2"]
    for data in (b"my notes", b"\n", (b"PK\x03\x04" + bytes(99))):
        out.write_bytes(data)
        assert main(train) == 1
        out_, err = capsys.readouterr()
        assert out_ == "" and "is not overwritten" in err and out.read_bytes() == data
    out.unlink()
    for verb in ("saved", "replaced"):
        assert main(train) == 0
        assert f"\n{verb} {out} (" in capsys.readouterr().out
    out.write_bytes(b"")  # like a file made by mktemp
    assert main(train) == 0 and LanguageModel.load(out).parameter_count > 0


def test_train_with_a_body(elsewhere, capsys):
    layers = [Residual([LayerNormalization(), LSTM(8, return_sequences=True)]), QRNN(5, return_sequences=True)]
    (elsewhere / "layers.json").write_text(json.dumps([describe(layer) for layer in layers]))
    command = ["train", "text.txt", "--embedding", "8", "--body", "layers.json", "--out", "m.npz", "--checkpoint", "run.npz", *BRIEF]
    assert main(command) == 0 and LanguageModel.load("m.npz").get_params()["body"] == layers
    assert main([*command, "--resume", "run.npz", "--epochs", "3", "--schedule", "constant"]) == 2  # another schedule: the body is the same
    assert "schedule is" in capsys.readouterr().err.replace("--schedule", "schedule")
    (elsewhere / "layers.json").write_text(json.dumps([describe(layers[1])]))
    assert main([*command, "--resume", "run.npz"]) == 2
    assert "body is" in capsys.readouterr().err.replace("--body", "body")


@pytest.mark.parametrize(("content", "message"), [
    ("", "is not JSON (Expecting value"), ("[" * 100_000, "is not JSON ("), ("{}", "is not a list of layers, expected one such as [{"), ("[]", "is not a list"),
    ("[3]", "is not a list"), ('[{"class": "Lstn"}]', "has the class 'Lstn', expected one of Embedding,"), ('[{"units": 3}]', "has a layer without a class, {'units': 3}"),
    ('[{"class": ["LSTM"]}]', "has the class ['LSTM'], expected one of"), ('[{"class": "LSTM", "unit": 3}]', "LSTM has no argument 'unit'; did you mean 'units'?"),
    ('[{"class": "LSTM", "units": -3}]', "LSTM: units is -3, expected a whole number"), ('[{"class": "Residual", "layers": [{"class": "X"}]}]', "has the class 'X'"),
    ('[{"class": "LSTM", "units": {"a": 1}}]', "has a layer without a class, {'a': 1}"), ('[{"class": "LSTM", "units": 3}]', "needs return_sequences=True"),
    ('[{"class": "Recurrent", "units": 3, "cell": "lst"}]', "cell is 'lst', expected one of"), (" " * (1 << 20) + "[]", "is not a list of layers"), (None, "cannot be read"),
])  # fmt: skip
def test_a_body_that_is_none(elsewhere, content, message, capsys):
    if content is not None:
        (elsewhere / "layers.json").write_text(content)
    assert main(["train", "text.txt", "--body", "layers.json", *BRIEF]) in (1, 2)
    err = capsys.readouterr().err
    assert message in err.replace("--units", "units").replace("--cell", "cell") and err.count("\n") == 1


def trained(*arguments, text="text.txt"):
    return main(["train", text, *SMALL, *BRIEF, *arguments])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with text.txt, held_out.txt, and others.txt, which has the same ids as text.txt."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("text.txt", TEXT), ("others.txt", TEXT.upper()), ("held_out.txt", HELD_OUT)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_without_out_nothing_is_overwritten(elsewhere, capsys):
    assert trained() == 0
    first = Path("model.npz").read_bytes()
    Path("model-3.npz").write_text("a file of something else")
    for name in ("model-2.npz", "model-4.npz"):
        assert trained("--verbose", "1") == 0
        out = capsys.readouterr().out
        assert out.startswith(f"model.npz exists: the model will be saved as {name}\n")
        assert f"\nsaved {name} (" in out and f"numba-rnnlm generate {name} " in out
        assert Path(name).read_bytes() == first
    assert Path("model.npz").read_bytes() == first and Path("model-3.npz").read_text() == "a file of something else"


@pytest.mark.parametrize("there", ["text", "folder", "link", "sequential"])
def test_an_existing_file_with_the_default_name_is_not_replaced(there, elsewhere):
    path = Path("model.npz")
    if there == "text":
        path.write_text("notes")
    elif there == "folder":
        path.mkdir()
    elif there == "link":
        path.symlink_to("nowhere")
    else:
        Sequential([Embedding(4, 8), LSTM(16), Dense(4, activation="softmax")]).save(path)
    assert trained() == 0
    assert LanguageModel.load("model-2.npz").history_["epoch"] == [1, 2]
    assert path.is_symlink() if there == "link" else path.exists()


def test_a_default_name_that_is_taken_during_training(elsewhere, monkeypatch, capsys):
    fit = LanguageModel.fit_config

    def slow(self, *arguments, **options):
        fit(self, *arguments, **options)
        Path("model.npz").write_text("of a second program")

    monkeypatch.setattr(LanguageModel, "fit_config", slow)
    assert trained("--verbose", "2") == 0
    assert "\nsaved model-2.npz (" in capsys.readouterr().out and Path("model.npz").read_text() == "of a second program"


def test_a_model_of_another_text_is_not_replaced(elsewhere, capsys):
    assert trained("--out", "m.npz") == 0
    first = Path("m.npz").read_bytes()
    for arguments, text, what in (([], "others.txt", "of another text"), ([], "held_out.txt", "of another text"),
                                  (["--tokenizer", "word"], "text.txt", "of the same text with another vocabulary (--tokenizer char there, word here)")):
        assert trained("--out", "m.npz", *arguments, text=text) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.endswith(f"error: --out is 'm.npz', a model {what}; it is not replaced. Give another name, or --overwrite.\n")
        assert Path("m.npz").read_bytes() == first
    Path("copy.txt").write_text(TEXT)
    assert trained("--out", "m.npz", "--seed", "9", text="copy.txt") == 0 and Path("m.npz").read_bytes() != first
    assert trained("--out", "m.npz", "--overwrite", text="others.txt") == 0
    assert list(LanguageModel.load("m.npz").tokenizer_.unknown_symbols("the"))


def test_the_error_explains_why_the_vocabularies_differ(elsewhere, capsys):
    Path("text.txt").write_text(TEXT * 2 + "Zebra\n")
    assert main(["train", "text.txt", "--out", "m.npz", *SMALL, "--epochs", "1", "--verbose", "0"]) == 0
    for _ in range(2):
        assert trained("--out", "m.npz", "--min-count", "2") == 1
        assert capsys.readouterr().err.endswith(
            "a model of the same text with another vocabulary (--min-count 1 there, 2 here; held out: 5% of the text there, nothing here, because of "
            "--valid and --validation-split); it is not replaced. Give another name, or --overwrite.\n")
    assert main(["train", "text.txt", "--from", "m.npz", "--extend-vocabulary", "--out", "n.npz", *BRIEF]) == 0
    assert main(["train", "text.txt", "--from", "m.npz", "--out", "n.npz", *BRIEF]) == 1
    assert "(it has other symbols, inherited from an earlier model)" in capsys.readouterr().err


CUT_SHORT = "is unchanged, because only a complete training replaces a model"


@pytest.fixture
def stopped(monkeypatch):
    """Run a training that is interrupted in its second epoch."""
    step = Trainer._step

    def interrupted(self, *arguments):
        step(self, *arguments)
        if self.at.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    def train(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_step", interrupted)
            return trained(*arguments, **options)

    return train


def test_a_training_that_is_cut_short_replaces_no_model(elsewhere, stopped, capsys):
    out = ["--out", "m.npz"]
    assert stopped(*out) == 130  # the model is saved
    assert trained(*out, "--epochs", "1") == 0  # complete, although with fewer epochs than the next one
    whole = Path("m.npz").read_bytes()
    capsys.readouterr()
    assert stopped(*out) == 130
    assert capsys.readouterr().err == f"numba-rnnlm: interrupted, the model is saved in 'm-2.npz'; 'm.npz' {CUT_SHORT}\n"
    assert Path("m.npz").read_bytes() == whole and LanguageModel.load("m-2.npz").history_["epoch"][-1] < 2
    assert main(["train", "text.txt", *SMALL, *BRIEF, *WILD, "--epochs", "3", "--warmup", "1", "--steps", "100000", *out]) == 3  # diverged
    assert f"The model is saved in 'm-3.npz'; 'm.npz' {CUT_SHORT}.\n" in capsys.readouterr().err
    Path("m.npz").write_bytes(b"")
    assert stopped(*out) == 130 and Path("m.npz").stat().st_size and stopped(*out, "--overwrite") == 130
    assert sorted(os.listdir()) == sorted(["text.txt", "others.txt", "held_out.txt", "m.npz", "m-2.npz", "m-3.npz"])


def test_a_resumed_run_that_is_cut_short_replaces_its_own_model_only(elsewhere, stopped, capsys):
    run = ["--out", "m.npz", "--checkpoint", "run.npz", "--resume", "run.npz", "--epochs", "4"]
    assert trained("--out", "m.npz", "--epochs", "4") == 0
    whole = Path("m.npz").read_bytes()
    lengths = []
    for _ in range(2):
        assert stopped(*run) == 130
        assert Path("m.npz").read_bytes() == whole  # the complete model with the same settings is not replaced
        lengths.append(LanguageModel.load("m-2.npz").history_["epoch"][-1])
    assert lengths[0] < lengths[1] and not Path("m-3.npz").exists()
    assert stopped("--resume", "run.npz", "--out", "run.npz", "--epochs", "4") == 130 and Path("run-2.npz").exists()
    assert trained(*run) == 0 and Path("m.npz").read_bytes() == whole


@pytest.mark.parametrize("words", [[], ["--resume", "run.npz"], ["--resume", "./run.npz"]])
def test_an_interrupted_training_prints_the_command_that_resumes_it(words, elsewhere, stopped, capsys):
    assert stopped("--checkpoint", "run.npz", "--out", "a b.npz", *words, "--verbose", "2") == 130
    (command,) = re.findall(r"^next:\n  (numba-rnnlm train .*)$", capsys.readouterr().out, re.MULTILINE)
    assert command.count("--resume") == 1 and main(shlex.split(command)[1:]) == 0
    continued = Path("a b.npz").read_bytes()
    assert trained("--out", "whole.npz") == 0 and Path("whole.npz").read_bytes() == continued
    assert stopped("--verbose", "2") == 130 and "\nnext:\n  numba-rnnlm generate " in capsys.readouterr().out


def test_two_trainings_do_not_write_the_same_model(elsewhere, capsys):
    with locked("m.npz", "model"), locked("model.npz", "model"):
        assert trained("--out", "m.npz") == 1
        assert f"error: the model 'm.npz' is being written by process {os.getpid()} on host " in capsys.readouterr().err
        assert trained("--verbose", "2") == 0
    assert capsys.readouterr().out.startswith("model.npz is being written by another training: the model will be saved as model-2.npz\n")
    assert sorted(os.listdir()) == ["held_out.txt", "model-2.npz", "others.txt", "text.txt"]


def test_an_unusable_log_is_rejected_before_any_output(elsewhere, capsys):
    assert trained() == 0
    Path("folder.csv").mkdir()
    for arguments, message in ((["--log", "nowhere/log.csv"], "cannot write the log"), (["--log", "folder.csv"], "cannot read the log")):
        assert trained("--verbose", "2", *arguments) == 1
        out, err = capsys.readouterr()
        assert out == "" and message in err


def test_the_summary_has_bits_per_predicted_unit(elsewhere, capsys):
    for tokenizer, unit in (("byte", "byte"), ("char", "character")):
        assert trained("--tokenizer", tokenizer, "--valid", "held_out.txt", "--verbose", "2") == 0
        assert re.search(rf"^best validation loss .*, \d\.\d{{3}} bits/{unit}$", capsys.readouterr().out, re.MULTILINE)


def test_an_output_must_differ_from_the_other_files_of_the_command(elsewhere, capsys):
    Path("link.npz").symlink_to("held_out.txt")
    Path("loop.npz").symlink_to("loop.npz")
    target, loop = str(elsewhere / "held_out.txt"), "a link to itself"
    for arguments, message in (
        (["--out", "text.txt"], "--out is 'text.txt', and CORPUS is the same file; give it a name of its own."),
        (["--out", "link.npz"], f"--out is 'link.npz', a link to {target!r}, and --valid is the same file; give it a name of its own."),
        (["--out", "m.npz", "--checkpoint", "m.npz"], "--checkpoint is 'm.npz', and --out is the same file; give it a name of its own."),
        (["--out", "loop.npz"], f"--out: cannot write 'loop.npz': it is {loop}; give another name."),
        (["--checkpoint", "loop.npz"], f"--out: cannot write 'loop.npz': it is {loop}; give another name."),
    ):
        assert trained(*arguments, "--valid", "held_out.txt") in (1, 2)
        assert message.removeprefix("--out: ") in capsys.readouterr().err
    assert Path("loop.npz").is_symlink()


def test_other_models_that_out_does_not_replace(elsewhere, capsys):
    def header(change):
        """Write m.npz with a changed header."""
        with np.load("whole.npz") as file:
            arrays = dict(file)
        about = change(json.loads(arrays.pop("about").tobytes()))
        np.savez("m.npz", about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)

    assert trained("--out", "whole.npz", "--checkpoint", "run.npz") == 0
    for texts in ("missing", None, 3, [], {}, {"corpus": 3}):
        header(lambda about, texts=texts: {**about, "texts": texts} if texts != "missing" else {
            key: value for key, value in about.items() if key != "texts"})
        assert trained("--out", "m.npz") == 1
        assert "--out is 'm.npz', a model that does not record its training text; it is not replaced" in capsys.readouterr().err
    assert trained("--out", "run.npz") == 0  # a finished run of the same text
    assert trained("--checkpoint", "run.npz", "--out", "n.npz") == 1
    assert "'run.npz' is a model file; a checkpoint would take its place" in capsys.readouterr().err
    LanguageModel().fit_config("text.txt", None, TrainingConfig(epochs=1, verbose=0), CheckpointConfig("run2.npz"))
    assert trained("--checkpoint", "run2.npz", "--out", "n.npz", text="others.txt") == 1
    assert "--checkpoint is 'run2.npz', a model of another text" in capsys.readouterr().err
    assert trained("--checkpoint", "run2.npz", "--out", "n.npz", "--overwrite", text="others.txt") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train", lambda self: self._keep(first=True))
        LanguageModel().fit_config("text.txt", None, TrainingConfig(epochs=1, verbose=0), CheckpointConfig("run3.npz"))
    assert trained("--out", "run3.npz") == 1
    assert "--out is 'run3.npz', the checkpoint of an unfinished run; it is not replaced" in capsys.readouterr().err


def test_a_resumed_run_without_out_replaces_its_own_model(elsewhere, capsys):
    run = ["--checkpoint", "run.npz", "--resume", "run.npz"]
    assert trained("--schedule", "constant") == 0
    other = Path("model.npz").read_bytes()
    assert trained("--schedule", "constant", "--learning-rate", "0.001", *run) == 0
    assert os.listdir().count("model-2.npz") == 1 and Path("model.npz").read_bytes() == other
    short = Path("model-2.npz").read_bytes()
    assert main(["train", "text.txt", *run, "--epochs", "3", "--verbose", "0"]) == 0
    assert Path("model.npz").read_bytes() == other and not Path("model-3.npz").exists()
    assert Path("model-2.npz").read_bytes() != short and LanguageModel.load("model-2.npz").history_["epoch"] == [1, 2, 3]


@pytest.mark.parametrize(("schedule", "longer"), [("linear", ["--epochs", "3"]), ("linear", ["--epochs", "1", "--max-seconds", "1h"]), ("constant", ["--epochs", "3"])])
def test_a_resumed_run_replaces_no_longer_one(schedule, longer, elsewhere, capsys):
    options = ["--schedule", schedule]
    run = [*options, "--epochs", "1", "--checkpoint", "run.npz", "--resume", "run.npz"]
    assert trained(*options, *longer) == 0
    other = Path("model.npz").read_bytes()
    for _ in range(3):  # it begins, and then it has ended
        assert trained(*run) == 0
        assert Path("model.npz").read_bytes() == other and LanguageModel.load("model-2.npz").history_["epoch"] == [1]
    assert not Path("model-3.npz").exists() and "is unchanged, because only a complete" not in "".join(capsys.readouterr())


def test_a_run_can_be_resumed_with_more_epochs_in_another_process(elsewhere):
    def done(*arguments):
        run = process("train", "text.txt", *SMALL, *BRIEF, "--schedule", "plateau", *arguments)
        out, err = run.communicate(timeout=HANG)
        return run.returncode, out, without_notice(err)

    assert done("--out", "whole.npz", "--epochs", "4", "--seed", "2") == (0, b"", b"")
    assert done("--out", "part.npz", "--checkpoint", "run.npz", "--seed", "2") == (0, b"", b"")
    assert done("--out", "part.npz", "--resume", "run.npz", "--epochs", "4", "--seed", "2") == (0, b"", b"")
    assert Path("part.npz").read_bytes() == Path("whole.npz").read_bytes()


def test_the_validation_text_is_not_read_again_after_training(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(LanguageModel, "evaluate", None)
    assert trained("--valid", "held_out.txt", "--verbose", "2", "--validate-every", "20", "--max-seconds", "1h", "--log", "log.csv") == 0
    assert "\nbest validation loss " in capsys.readouterr().out
    assert len(Path("log.csv").read_text().splitlines()) > 3


def test_train_interrupted_twice_reports_that_nothing_was_saved(tmp_path, monkeypatch, capsys):
    def fit(*arguments, **options):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(LanguageModel, "fit_config", fit)
    assert main(["train", "text.txt", "--out", str(tmp_path / "m.npz"), "--verbose", "0"]) == 143
    assert capsys.readouterr() == ("", "numba-rnnlm: interrupted, nothing was saved\n")
    assert not any(tmp_path.iterdir())


WILD = ["--cell", "relu", "--optimizer", "sgd", "--learning-rate", "1e6", "--clip-norm", "0", "--verbose", "0",
        "--epochs", "9", "--streams", "1"]


def test_divergence_after_an_epoch_saves_the_last_good_weights(tmp_path, capsys):
    out = tmp_path / "m.npz"
    late = ["--warmup", "1", "--steps", "100000"]  # one update per epoch, the first one with a learning rate of 0
    assert main(["train", "text.txt", "--out", str(out), *SMALL, *WILD, *late]) == 3
    err = capsys.readouterr().err
    assert "diverged" in err and f"saved in {str(out)!r}" in err
    same = LanguageModel("relu", hidden=8, layers=1, embedding=4)
    with pytest.raises(DivergenceError):
        same.fit(TEXT, epochs=9, streams=1, steps=100000, optimizer="sgd", learning_rate=1e6, clip_norm=0, warmup=1,
                 verbose=0)
    saved = LanguageModel.load(out)
    assert saved.history_["epoch"] and saved.history_["epoch"] == same.history_["epoch"]
    for name, weights in same.network_.weights().items():
        np.testing.assert_array_equal(saved.network_.weights()[name], weights)


def test_divergence_in_the_first_epoch_saves_nothing(tmp_path, capsys):
    out = tmp_path / "m.npz"
    assert main(["train", "text.txt", "--out", str(out), *SMALL, *WILD, "--steps", "10"]) == 1
    assert "diverged" in capsys.readouterr().err and not out.exists()


def test_interrupted_training_is_saved(tmp_path):
    out = tmp_path / "m.npz"
    run = process("train", "text.txt", "--out", str(out), *SMALL, "--epochs", "1000000", "--streams", "4")
    assert any(line.startswith(b"epoch 1") for line in run.stdout)
    run.send_signal(signal.SIGINT)
    printed, err = run.communicate(timeout=HANG)
    assert run.returncode == 130 and b"Traceback" not in err and b"stopped: interrupted" in printed and b"saved " in printed
    assert LanguageModel.load(out).history_["epoch"][-1] >= 1


# eval


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz"])
def test_eval(model, capsys):
    assert main(["eval", model, "held_out.txt", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = LanguageModel.load(model).evaluate(HELD_OUT)
    assert report == {name: getattr(found, name) for name in (
        "perplexity", "nats_per_token", "bits_per_token", "bits_per_character", "bits_per_byte", "tokens", "oov",
        "characters", "bytes", "bos", "unknown",
    )}
    assert main(["eval", model, "held_out.txt", "--bos", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nats_per_token"] == LanguageModel.load(model).evaluate(HELD_OUT, bos=True).nats_per_token
    assert main(["eval", model, "held_out.txt", "--bos"]) == 0
    assert f"\ntokens                 {found.tokens + 1}\n" in capsys.readouterr().out
    assert main(["eval", model, "held_out.txt"]) == 0
    rows = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows == {
        "perplexity": f"{found.perplexity:.4f}", "nats/token": f"{found.nats_per_token:.4f}",
        "bits/character": f"{found.bits_per_character:.4f}", "bits/byte": f"{found.bits_per_byte:.4f}",
        "tokens after the first": str(found.tokens), "not in the vocabulary": str(found.oov),
    }


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz"])
def test_eval_of_rounded_weights(model, capsys):
    losses = {}
    for weights in ("float32", "int8"):
        assert main(["eval", model, "held_out.txt", "--json", "--weights", weights]) == 0
        losses[weights] = json.loads(capsys.readouterr().out)["nats_per_token"]
        assert losses[weights] == LanguageModel.load(model).evaluate(HELD_OUT, weights=weights).nats_per_token
    assert losses["int8"] != losses["float32"] and losses["int8"] == pytest.approx(losses["float32"], rel=1e-3)


def test_eval_of_bytes_in_which_no_character_begins(tmp_path, capsys):
    (tmp_path / "bytes").write_bytes(b"\x80\x80")
    assert main(["eval", "byte.npz", str(tmp_path / "bytes")]) == 0
    assert "\nbits/character          no\n" in capsys.readouterr().out


def test_eval_of_one_line_equals_its_score(tmp_path, capsys):
    (tmp_path / "line.txt").write_text("the cat\n")
    for model in ("char.npz", "word.npz", "byte.npz"):
        assert main(["eval", model, str(tmp_path / "line.txt"), "--bos", "--json"]) == 0
        assert main(["score", model, str(tmp_path / "line.txt"), "--normalize"]) == 0
        evaluated, score = capsys.readouterr().out.splitlines()
        assert json.loads(evaluated)["nats_per_token"] == pytest.approx(-float(score), abs=1e-5)


# score

LINES = ["the cat", "", "the cow sees\tthe wolf", "dog " * 100]


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_score(model, end, monkeypatch, capsys, tmp_path):
    data = "\n".join(LINES) + end
    want = LanguageModel.load(model).score(LINES)
    (tmp_path / "lines.txt").write_text(data)
    assert main(["score", model, str(tmp_path / "lines.txt")]) == 0
    out = capsys.readouterr().out
    assert np.array(out.split(), float) == pytest.approx(want, abs=1e-5)
    for arguments in ([], ["-"]):
        typed(monkeypatch, data.encode())
        assert main(["score", model, *arguments]) == 0
        assert capsys.readouterr().out == out


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz"])
def test_score_of_tokens(model, monkeypatch, capsys):
    loaded = LanguageModel.load(model)
    want = [loaded.full_scores(line) for line in LINES]
    typed(monkeypatch, "\n".join(LINES).encode())
    assert main(["score", model, "--per-token"]) == 0
    blocks = capsys.readouterr().out.removesuffix("\n\n").split("\n\n")
    for block, scores in zip(blocks, want, strict=True):
        rows = [row.split("\t") for row in block.split("\n")]
        assert [(token, bool(int(oov))) for token, _, oov in rows] == [
            (token.replace("\t", "\\t"), oov) for token, _, oov in scores
        ]
        assert [float(nats) for _, nats, _ in rows] == pytest.approx([nats for _, nats, _ in scores], abs=1e-5)

    typed(monkeypatch, "\n".join(LINES).encode())
    assert main(["score", model, "--per-token", "--json"]) == 0
    for line, scores in zip(capsys.readouterr().out.splitlines(), want, strict=True):
        row = json.loads(line)
        assert [oov for _, _, oov in row["scores"]] == [oov for _, _, oov in scores]
        assert [token for token, _, oov in row["scores"] if oov] == [token for token, _, oov in scores if oov]
        assert row["log_probability"] == pytest.approx(sum(nats for _, nats, _ in scores), abs=1e-4)
        assert (row["tokens"], row["oov"]) == (len(scores), sum(oov for _, _, oov in scores))

    typed(monkeypatch, "\n".join(LINES).encode())
    assert main(["score", model, "--normalize"]) == 0
    tokens = [token for token, _, _ in row["scores"]]  # the tokens of the last line
    assert tokens == ["dog"] * 100 + ["\n"] if model == "word.npz" else "".join(tokens) == LINES[-1] + "\n"
    means = [np.mean([nats for _, nats, _ in scores]) for scores in want]
    assert np.array(capsys.readouterr().out.split(), float) == pytest.approx(means, abs=1e-5)


def test_score_of_equal_lines_in_several_batches(monkeypatch, capsys):
    monkeypatch.setattr(sources, "LINES", 3)
    lines = ["the cat", "", "", "", "the cow", "the cat", "the cow", "the cow"]
    typed(monkeypatch, "\n".join(lines).encode())
    assert main(["score", "word.npz", "--json"]) == 0
    out, report = capsys.readouterr()
    for line in sorted(set(lines)):
        typed(monkeypatch, line.encode() + b"\n")
        assert main(["score", "word.npz", "--json"]) == 0
        alone = capsys.readouterr().out
        assert [one + "\n" == alone for one in out.splitlines()] == [one == line for one in lines]
    assert "3 of 18 tokens, in 3 of 8 lines" in report and "'cow' (3 times)" in report
    typed(monkeypatch, b"the\nthe\n\n\n\nc\xfft\nc\xfft\n")
    assert main(["score", "char.npz"]) == 1
    assert "standard input, line 6: The text is not UTF-8" in capsys.readouterr().err


def test_score_of_any_bytes(monkeypatch, capsys):
    typed(monkeypatch, b"the\n\xff\xfe\n")
    assert main(["score", "byte.npz", "--per-token"]) == 0
    assert [row.split("\t")[0] for row in capsys.readouterr().out.splitlines()] == [
        "t", "h", "e", "\\n", "", "\\xff", "\\xfe", "\\n", ""
    ]
    typed(monkeypatch, b"the\nc\xfft\n")
    assert main(["score", "char.npz"]) == 1
    err = capsys.readouterr().err
    assert "error: standard input, line 2: The text is not UTF-8: the byte at offset 1 is 0xff." in err and "give --encoding cp1252" in err


def test_a_line_as_long_as_the_text_is_joined_once():
    """The line comes in pieces of 1 kB; joining it with each piece would copy 300 GB."""
    data = b"." * 24_000_000 + b"\nend"
    pieces = Text("pipe", [Part("pipe", lambda: (data[start : start + 1024] for start in range(0, len(data), 1024)))])
    assert [len(line) for lines in pieces.lines("keep") for line in lines] == [24_000_000, 3]


def test_tokens_in_json_are_text(monkeypatch, capsys):
    typed(monkeypatch, "é\\\tz".encode())
    assert main(["score", "byte.npz", "--per-token", "--json"]) == 0
    assert [token for token, _, _ in json.loads(capsys.readouterr().out)["scores"]] == ["", "é", "\\", "\t", "z", "\n"]


@pytest.mark.parametrize("model", ["char.npz", "word.npz"])
def test_score_accepts_any_line_ending(model, monkeypatch, capsys):
    outputs = set()
    for end in (b"\n", b"\r\n", b"\r"):
        typed(monkeypatch, b"the cat" + end + end + b"dog" + end)
        assert main(["score", model, "--json"]) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1 and outputs.pop().count("\n") == 3


# Lines begin with a dot because that is neither the beginning of a compressed file nor a byte order mark.
@given(st.lists(st.just(b"") | st.binary(max_size=20).map(lambda line: b"." + line.replace(b"\n", b"")), max_size=8), st.integers(1, 30))
def test_lines_arrive_whole_whatever_the_pieces(lines, size):
    class Pipe(io.BytesIO):
        def read1(self, limit=-1):
            return super().read1(min(limit, size))

    text = open_source(Pipe(b"".join(line + b"\n" for line in lines)))
    assert [line for some in text.lines("keep") for line in some] == lines


def test_score_of_nothing_is_an_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty.txt").write_text("")
    assert main(["score", "char.npz", str(tmp_path / "empty.txt")]) == 1
    assert capsys.readouterr() == ("", f"numba-rnnlm: error: '{tmp_path / 'empty.txt'}' is empty, expected at least one line to score.\n")
    typed(monkeypatch, b"")
    assert main(["score", "char.npz"]) == 1
    assert "standard input is empty" in capsys.readouterr().err
    typed(monkeypatch, b"\n")
    assert main(["score", "char.npz"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_score_answers_each_line_of_a_slow_pipe_at_once():
    run = process("score", "char.npz")
    for line in ("the cat", "the dog"):
        run.stdin.write(f"{line}\n".encode())
        run.stdin.flush()
        assert float(run.stdout.readline()) == pytest.approx(LanguageModel.load("char.npz").score(line), abs=1e-5)
    out, err = run.communicate(timeout=HANG)
    assert (out, without_notice(err), run.returncode) == (b"", b"", 0)


# generate


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz"])
def test_generate(model, monkeypatch, capsys):
    options = {"length": 12, "temperature": 0.5, "top_k": 5, "top_p": 0.9}
    flags = [f"{flag(name)}={value}" for name, value in options.items()]
    loaded = LanguageModel.load(model)
    end = "\n" * (model != "byte.npz")  # no newline is added to bytes
    texts = ["the cat" + loaded.generate("the cat", **options, seed=seed) + end for seed in (4, 5)]
    assert main(["generate", model, "--prompt", "the cat", "--seed", "4", "--samples", "2", *flags]) == 0
    assert capsys.readouterr().out == texts[0].removesuffix(end) + "\n\n" + texts[1]
    assert main(["generate", model, "the cat", "--seed", "5", *flags]) == 0
    assert capsys.readouterr().out == texts[1]
    typed(monkeypatch, b"the cat")
    assert main(["generate", model, "--prompt", "-", "--seed", "5", *flags]) == 0
    assert capsys.readouterr().out == texts[1]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("samples", [1, 3])
def test_samples_generated_in_a_batch_equal_single_samples(weights, samples, capsys):
    options = {"length": 20, "top_p": 0.9, "weights": weights}
    flags = [f"{flag(name)}={value}" for name, value in options.items()]
    loaded = LanguageModel.load("char.npz")
    texts = ["the " + loaded.generate("the ", **options, seed=7 + sample) + "\n" for sample in range(samples)]
    assert main(["generate", "char.npz", "the ", "--seed", "7", "--samples", str(samples), *flags]) == 0
    assert capsys.readouterr().out == "\n".join(texts)


def test_samples_without_a_seed_differ(capsys):
    assert main(["generate", "char.npz", "--length", "60", "--samples", "2", "--temperature", "5"]) == 0
    out = capsys.readouterr().out
    assert len(out) == 2 * 61 + 1 and out[:60] != out[62:122]


def test_generate_without_a_prompt_or_a_seed(capsys):
    outs = set()
    for _ in range(2):
        assert main(["generate", "char.npz", "--length", "60"]) == 0
        outs.add(capsys.readouterr().out)
    assert len(outs) == 2 and {len(out) for out in outs} == {61}


def test_generate_reads_unknown_symbols_with_unk(capsys):
    assert main(["generate", "char.npz", "--prompt", "a zebra", "--unknown", "unk", "--length", "5"]) == 0
    assert capsys.readouterr().out.startswith("a zebra")


def test_prompt_on_standard_input_must_be_utf8(monkeypatch, capsys):
    typed(monkeypatch, b"\xff")
    assert main(["generate", "char.npz", "--prompt", "-"]) == 1
    words = "error: the prompt is not UTF-8: the byte at offset 0 is 0xff. Convert it to UTF-8, or use a model with --tokenizer byte.\n"
    assert capsys.readouterr().err.endswith(words)
    assert main(["generate", "char.npz", "--prompt", "\udcff"]) == 1 and capsys.readouterr().err.endswith(words)


def test_a_closed_pipe_ends_generate_quietly():
    run = process("generate", "char.npz", "--length", "1000000")
    assert len(run.stdout.read(10)) == 10
    run.stdout.close()
    assert run.wait(timeout=HANG) == 141
    assert without_notice(run.stderr.read()) == b""


@pytest.mark.parametrize(("arguments", "message"), [
    (["score", "char.npz", "the cat"], "No such file or directory. To pass a text itself, write: echo 'the cat' | numba-rnnlm score ... -"),
    (["eval", "char.npz", "text.txt", "the cat"], "echo 'the cat' | numba-rnnlm eval ... -"),
    (["score", "char.npz", "cat"], "Cannot read the file 'cat': No such file or directory.\n"),
    (["train", "text.txt", "--resume", "a run.npz"], "there is no checkpoint 'a run.npz' to resume from; --checkpoint 'a run.npz' --resume 'a run.npz' starts a run"),
])
def test_hints_on_files_that_do_not_exist(arguments, message, capsys):
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


# info


def test_info_of_the_system(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for part in (numba_rnnlm.__version__, np.__version__, "cpu, reference", "bits", "kernel cache"):
        assert part in out


def test_info_of_a_model(capsys):
    assert main(["info", "word.npz"]) == 0
    out = capsys.readouterr().out
    model = LanguageModel.load("word.npz")
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    assert ["hidden", "8"] in rows and ["tokenizer", "word"] in rows and ["seed", "0"] in rows
    assert ["weights", f"{model.parameter_count:,}"] in rows
    assert ["vocabulary", "6 symbols: '<unk>' '<eos>' 'the' 'cat' 'dog' 'sees'"] in rows
    assert f"loss {model.history_['loss'][-1]:.4f}" in out and "epochs trained" in out
    assert out.endswith("\n".join(["network", "  embedding   ids → 4    24", "  lstm          4 → 8   416", "  dense         8 → 6    54", ""]))
    assert main(["info", "ids.npz"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["vocabulary_size", "5"] in rows and ["backend", "auto"] not in rows


def test_info_of_a_sequential(tmp_path, capsys):
    path = tmp_path / "m.npz"
    model = Sequential([Embedding(4, 8), LSTM(16), Dense(4, activation="softmax")], seed=3)
    model.save(path)
    assert main(["info", str(path)]) == 0
    assert "optimizer" not in capsys.readouterr().out
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save(path)
    assert main(["info", str(path)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("layer ", "layer-").split("\nnetwork\n")[0].splitlines())
    assert rows["weights"] == f"{model.count_params():,}" and rows["seed"] == "3"
    assert rows["layer-2"].startswith("LSTM(") and "units=16" in rows["layer-2"]
    assert rows["optimizer"].startswith("adam(") and "learning_rate=0.001" in rows["optimizer"]
    assert (rows["loss"], rows["metrics"]) == ("sparse_categorical_crossentropy", "accuracy")


def test_info_of_a_model_with_parts_of_its_own(tmp_path, capsys):
    @dataclass(frozen=True)
    class Scaled(Residual):
        factor: float = 2.0

    path, cell = str(tmp_path / "m.npz"), replace(numba_rnnlm.cells.TANH, name="mine")
    for options, row in (({"cell": cell}, "cell               mine"), ({"body": [Scaled(GRU(3, return_sequences=True)), Recurrent(4, True, cell)]},
                                                                     "Scaled(factor=2.0, ")):
        LanguageModel(hidden=4, layers=1, embedding=3, **options).fit("a rose\n" * 9, epochs=1, streams=1, steps=5, verbose=0).save(path)
        CELLS.pop("mine", None)
        assert main(["info", path]) == 0  # without a drawing, for which the parts would be needed
        out = capsys.readouterr().out
        assert row in out and "last epoch" in out and "mine" in out
        assert main(["info", path, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == "language_model"
        Path(path).unlink()


def test_info_of_the_checkpoint_of_a_sequential(tmp_path, capsys):
    path, model = str(tmp_path / "run.npz"), Sequential([Embedding(4, 8), LSTM(16), Dense(4, activation="softmax")], seed=3)
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    model.fit([[1, 2]] * 5, [3] * 5, epochs=2, batch_size=2, verbose=0, checkpoint=path)
    assert main(["info", path]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("its model", "its-model").split("\nnetwork\n")[0].splitlines())
    assert rows["checkpoint"].startswith("ended: all epochs are done; 6 updates in ") and rows["its-model"] == "the latest" and rows["optimizer"].startswith("sgd(")
    stop = LambdaCallback(on_train_begin=lambda logs: signal.raise_signal(signal.SIGINT))
    model.fit([[1, 2]] * 5, [3] * 5, epochs=2, verbose=0, checkpoint=path, callbacks=stop, on_interrupt="return")
    assert main(["info", path]) == 0
    assert f"the latest; fit(..., resume={path!r}) in Python continues the training" in capsys.readouterr().out
    assert main(["info", path, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["kind"] == "sequential" and about["run"]["position"]["epoch"] == 1


def test_info_of_a_state(tmp_path, capsys):
    path = str(tmp_path / "state.npz")
    LanguageModel.load("char.npz").read(["the", "a cat"]).save(path)
    assert main(["info", path]) == 0
    assert "state after  2 texts, of 6 symbols at most\nweights      float32\n" in capsys.readouterr().out
    assert main(["info", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["positions"] == [4, 6]


@pytest.mark.parametrize("about", [{}, {"layers": 3}, {"layers": [{}], "compiled": None, "seed": 0}], ids=str)
def test_info_of_a_damaged_sequential(about, tmp_path, capsys):
    write_model(tmp_path / "m.npz", "sequential", about, {"weights": []})
    assert main(["info", str(tmp_path / "m.npz")]) == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz", "ids.npz"])
def test_info_as_json(model, capsys):
    assert main(["info", model, "--json"]) == 0
    about, loaded = json.loads(capsys.readouterr().out), LanguageModel.load(model)
    assert (about["kind"], about["weights"], about["file"]) == ("language_model", loaded.parameter_count, model)
    assert about["bytes"] == Path(model).stat().st_size and about["config"]["hidden"] == loaded.get_params()["hidden"]
    assert about["history"]["loss"] == loaded.history_["loss"] and set(about["history"]["seconds"]) <= {None}
    assert (None if about["vocabulary"] is None else len(about["vocabulary"])) == (loaded.tokenizer_.size if loaded.tokenizer_ else None)
    assert about["texts"] == read_about(model).get("texts") and ("run" in about) is False
    assert about["epochs"] == (2 if loaded.tokenizer_ else 0)


def test_info_as_json_of_other_files_and_of_the_system(tmp_path, capsys):
    assert main(["info", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["version"] == numba_rnnlm.__version__ and "cpu" in about["backends"] and about["threads"] >= 1
    model = Sequential([Embedding(4, 8), LSTM(16), Dense(4, activation="softmax")], seed=3)
    for compiled in (False, True):
        if compiled:
            model.compile("adam", loss="sparse_categorical_crossentropy")
        model.save(tmp_path / "m.npz")
        assert main(["info", str(tmp_path / "m.npz"), "--json"]) == 0
        about = json.loads(capsys.readouterr().out)
        assert (about["kind"], about["weights"], about["seed"], len(about["layers"])) == ("sequential", model.count_params(), 3, 3)
        assert (about["compiled"] is not None) == compiled
    checkpoint = str(tmp_path / "run.npz")
    LanguageModel(hidden=4, layers=1).fit("a rose\n" * 9, epochs=1, checkpoint=checkpoint, verbose=0, streams=1, steps=5)
    assert main(["info", checkpoint, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["kind"] == "checkpoint" and about["run"]["position"]["ended"] == "all epochs are done" and about["run"]["training"]["epochs"] == 1


# warmup

@pytest.mark.parametrize("settings", [
    {"NUMBA_CACHE_DIR": "text.txt/kernels"}, {"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_CACHE_DIR": "", "HOME": "nowhere"},
], ids=str)  # fmt: skip
def test_warmup_fails_at_once_if_kernels_cannot_be_cached(settings, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    run = process("warmup", "--backend", "cpu")
    out, shown = run.communicate(timeout=HANG)
    assert run.returncode == 1 and out == b""
    assert shown.startswith(b"numba-rnnlm: error: nothing was compiled") and shown.count(b"\n") == 1


def test_warmup_explains_why_kernels_cannot_be_cached(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file"))
    assert main(["warmup", "--backend", "cpu"]) == 1
    assert "file' is not a folder); set NUMBA_CACHE_DIR to a writable folder." in capsys.readouterr().err
    monkeypatch.setattr(backends, "COMPILER_IS_OFF", True)
    assert main(["warmup", "--backend", "cpu"]) == 1
    assert "NUMBA_DISABLE_JIT is set; unset it" in capsys.readouterr().err


def test_warmup_compiles_the_requested_cells_and_optimizers(monkeypatch, capsys):
    used = []
    monkeypatch.setattr(cli.warmup, "use", lambda cell, configs, weights, options: used.append((cell, configs, options)))
    assert main(["warmup", "--backend", "cpu", "--optimizers", "sgd", "adam", "--threads", "2"]) == 0
    assert [cell for cell, _, _ in used] == list(CELLS)
    for _, configs, options in used:
        rules = {make_optimizer(config, "tanh").rule.name for config in configs}
        assert rules == {"sgd", "momentum", "adam"}
        assert options == {"backend": "cpu", "threads": 2, "precision": "float32"}
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and err.count("\n") == len(CELLS)
    used.clear()
    assert main(["warmup", "--backend", "cpu", "--optimizers", "all", "--cells", "gru"]) == 0
    ((cell, configs, _),) = used
    assert cell == "gru" and {config.optimizer for config in configs} == set(OPTIMIZERS)


# demo


def test_the_demo_replaces_only_its_own_models(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(demo, "documentation", lambda: (TEXT, HELD_OUT))
    demonstrate = ["demo", "--seconds", "0.2", "--out", "m.npz"]
    assert main(demonstrate) == 0 and main(demonstrate) == 0
    assert "\nreplaced m.npz " in capsys.readouterr().out.replace("\n\n", "\n")
    assert trained("--out", "m.npz", "--overwrite", text="others.txt") == 0
    before = Path("m.npz").read_bytes()
    assert main(demonstrate) == 1
    out, err = capsys.readouterr()
    assert out == "" and "--out is 'm.npz', a model of another text; it is not replaced" in err
    assert Path("m.npz").read_bytes() == before
    assert main([*demonstrate, "--overwrite"]) == 0 and Path("m.npz").read_bytes() != before
    before = Path("m.npz").read_bytes()
    signals = iter([signal.SIGTERM])
    monkeypatch.setattr(Clock, "look", lambda self, at, look=Clock.look: (look(self, at), *map(signal.raise_signal, signals)))
    assert main(demonstrate) == 143 and Path("m.npz").read_bytes() == before
    assert f"interrupted, the model is saved in 'm-2.npz'; 'm.npz' {CUT_SHORT}\n" in capsys.readouterr().err


def test_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--seconds", "2"]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err
    model = LanguageModel.load("numba_rnnlm_demo.npz")
    assert f"held out: {model.bits_per_character(demo.documentation()[1]):.3f} bits/character" in out
    assert "\nThe function " in out and "saved numba_rnnlm_demo.npz" in out
    assert " tokens: 2 seconds, at most 1,000 epochs, streams 32, steps 50\n" in out


def test_the_demo_text_is_prose():
    text = "".join(demo.documentation())
    assert not any(mark in text for mark in ("|", "---", "==="))
    assert len(text) > 200_000 and text.count(" ") < len(text) / 3


def test_the_demo_does_not_train_on_the_held_out_text():
    training, held_out = demo.documentation()
    assert training.endswith("\n") and held_out.endswith("\n")
    assert 0.03 < len(held_out) / len(training + held_out) < 0.07
    seen = set(training.split("\n\n"))
    assert not [paragraph for paragraph in held_out.split("\n\n")[1:] if paragraph and paragraph in seen]


def test_demo_without_documentation(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert main(["demo"]) == 1
    assert "numba-rnnlm train FILE" in capsys.readouterr().err
