"""The command line: every command as a user types it, in this process; and whole processes where that matters."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numba
import numpy as np
import pytest
from checks import HANG, without_notice
from hypothesis import given
from hypothesis import strategies as st

import numba_rnnlm
from numba_rnnlm import LanguageModel, Sequential, backends, cli, demo, suggestions
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
from numba_rnnlm.interrupts import Interrupted
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.storage import locked, read_about, write_model
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
    """Texts, and a model of characters, of words, of bytes and of ids."""
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
def _inside(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    capsys.readouterr()


def typed(monkeypatch, data: bytes) -> None:
    """What stands on standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def process(*arguments: str, **options) -> subprocess.Popen:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "numba_rnnlm", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": HOME}, **options,
    )


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# flags


@pytest.mark.parametrize(("config", "command"), CONFIGS)
def test_every_field_is_a_flag_with_its_name_and_help(config, command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")  # no line of help is broken
    assert main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for item in fields(config):
        if item.name == "vocabulary_size":  # only for corpora of ids
            assert flag(item.name) not in shown
            continue
        assert f"{flag(item.name)} " in shown or f"{flag(item.name)}," in shown
        if item.name == "cell":  # registered cells are for Python only
            assert f"--cell {{{','.join(CELLS)}}} recurrent cell (default: lstm)" in shown
            continue
        assert " ".join(item.metadata["help"].split()) in shown
        if item.default is not None and not isinstance(item.default, bool):
            assert f"(default: {item.default})" in shown


def values(item) -> st.SearchStrategy:
    """What a flag may be given."""
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
def test_what_is_given_is_what_arrives(config, command, data):
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
             "initializer": "uniform", "initializer_scale": 0.5}
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
    machine = {"backend": "reference", "threads": 2, "precision": "float32", "seed": 11}
    given = {**model, **text, **training, **keeping, **machine}
    arguments = [flag(name) if value is True else f"{flag(name)}={value}" for name, value in given.items()]
    assert main(["train", "text.txt", "--valid", "held_out.txt", *arguments]) == 2  # as of every ConfigError
    params = {**model, **text, **machine, "vocabulary_size": None}
    assert calls == [(params, "text.txt", "held_out.txt", TrainingConfig(**training), CheckpointConfig(**keeping))]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_are_commands(command, capsys):
    assert main([command, "--help"]) == 0
    examples = capsys.readouterr().out.split("examples:\n")[1].splitlines()
    assert examples
    for line in examples:
        typed = re.split(r" {3,}| [|<] ", line.partition("numba-rnnlm ")[2])[0]  # without remarks and redirections
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


def test_every_flag_of_a_number_says_that_it_expects_one(capsys):
    commands = next(action.choices for action in cli.parser()._actions if action.metavar == "COMMAND")
    flags = [(command, action) for command, parser in commands.items() for action in parser._actions if action.type in (int, float)]
    assert len(flags) > 30
    for command, flag in flags:
        name, expected = flag.option_strings[0], "whole number, such as 100" if flag.type is int else "number, such as 0.5 or 1e-3"
        for value in ("many", "1e99" if flag.type is int else "1e", "9" * 5000 + "x"):
            assert main([command, "x", f"{name}={value}"]) == 2
            told = capsys.readouterr().err
            assert f"argument {name}: it is '{value[:9]}" in told and f"', expected a {expected}; see" in told and len(told) < 500


def test_the_program_alone_shows_its_help(capsys):
    assert main([]) == 0
    alone = capsys.readouterr()
    assert main(["--help"]) == 0
    assert capsys.readouterr() == alone and alone.err == ""
    run = process()
    told, err = run.communicate(timeout=HANG)
    assert run.returncode == 0 and err == b"" and told.startswith(b"usage: numba-rnnlm ")


# what was meant


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
def test_a_flag_of_other_tools_is_answered_with_ours(command, given, meant, capsys):
    assert main([command, "char.npz", *["text.txt"] * (command == "eval"), given + "=3"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == (f"numba-rnnlm {command}: error: unrecognized arguments: {given}=3; did you mean {meant}? "
                                 f"See numba-rnnlm {command} --help\n")


def test_several_flags_of_other_tools(capsys):
    assert main(["train", "text.txt", "--lr", "0.1", "--hidden", "9", "--batch-size", "20", "--zzz"]) == 2
    assert "did you mean --learning-rate for --lr, --streams for --batch-size? See numba-rnnlm train --help" in capsys.readouterr().err
    assert main(["eval", "char.npz", "text.txt", "--lr", "0.1"]) == 2  # which eval has no use for
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "meant"), [
    (["trian"], "train"), (["Train"], "train"), (["evaluate"], "eval"), (["sample"], "generate"), (["scroe"], "score"), (["fit"], "train"),
    (["train", "t", "--cell", "RNN"], "tanh"), (["train", "t", "--cell", "SimpleRNN"], "tanh"), (["train", "t", "--cell", "lstn"], "lstm"),
    (["train", "t", "--cell", "RNN_RELU"], "relu"), (["train", "t", "--tokenizer", "words"], "word"), (["train", "t", "--tokenizer", "character"], "char"),
    (["train", "t", "--optimizer", "Adamm"], "adam"), (["train", "t", "--schedule", "ReduceLROnPlateau"], "plateau"),
    (["train", "t", "--backend", "gpu"], "cuda"), (["train", "t", "--precision", "bfloat16"], "bf16"), (["warmup", "--cells", "ltsm"], "lstm"),
])  # fmt: skip
def test_a_value_of_other_tools_is_answered_with_ours(arguments, meant, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"; did you mean {meant}? See numba-rnnlm" in err and err.count("\n") == 1


@pytest.mark.parametrize(("flag", "value"), [
    ("--cell", "LSTM"), ("--tokenizer", "Word"), ("--optimizer", "Adam"), ("--optimizer", "SGD"), ("--schedule", "Cosine"), ("--backend", "CPU"),
    ("--precision", "BF16"), ("--initializer", "Glorot"), ("--reduction", "MEAN"), ("--not-finite", "Skip"),
])  # fmt: skip
def test_any_capitals_are_accepted(flag, value):
    args = cli.parser().parse_args(["train", "text.txt", flag, value])
    assert getattr(args, flag[2:].replace("-", "_")) == value.lower()


def test_every_name_of_the_tables_is_ours():
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
def test_an_impossible_value_is_wrong_usage_too(arguments, capsys):
    expect_error(arguments, 2, capsys)


def expect_error(arguments, code, capsys):
    """One sentence, this exit code, and nothing written."""
    before = sorted(os.listdir())
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert err.startswith("numba-rnnlm: error: ") and err.count("\n") == 1 and err.endswith(".\n") and out == ""
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(("arguments", "told"), [
    (["generate", "char.npz", "--prompt", "zebra"], "give --unknown unk to read"),
    (["train", "latin1.txt", "--verbose", "0"], "with --tokenizer byte."),
    (["train", "text.txt", "--learning-rate", "0"], "error: --learning-rate is 0.0, expected"),
    (["train", "text.txt", "--backend", "cpu", "--precision", "tf32"], '--precision is "tf32", which needs a GPU; --backend cpu knows'),
    (["generate", "char.npz", "--backend", "reference", "--weights", "int8"], "error: --weights is 'int8', which needs --backend cpu"),
    (["warmup", "--backend", "reference"], "choose another --backend"),
    (["demo", "--seconds", "0"], "error: --seconds is 0.0, expected"),
    (["train", "text.txt", "--tokenizer", "byte", "--max-vocabulary", "9"], "error: --max-vocabulary is 9 with --tokenizer byte, which"),
    (["train", "text.txt", "--tokenizer", "byte", "--min-count", "2"], "error: --min-count is 2 with --tokenizer byte, which"),
    (["train", "text.txt", "--hidden", "10000000000"], "error: --hidden is 10000000000, expected a whole number at least 1 and at most"),
    (["eval", "text.txt", "char.npz"], "it is not a zip archive. The model comes first: numba-rnnlm eval char.npz text.txt"),
    (["score", "text.txt", "word.npz"], "The model comes first: numba-rnnlm score word.npz text.txt"),
    (["generate", "the cat", "char.npz"], "The model comes first: numba-rnnlm generate char.npz 'the cat'"),
    (["generate", "char.npz", "-the"], "a prompt that begins with - is written --prompt=-the; see"),
    (["generate", "char.npz", "--prompt", "-the"], "a value that begins with - is written --prompt=-VALUE; see"),
    (["train", ""], "argument CORPUS: it is empty, expected the name of a file"),
    (["score", "char.npz", "text.txt", "--eos"], "unrecognized arguments: --eos; see"),
    (["eval", "char.npz", "text.txt", "--eos"], "unrecognized arguments: --eos; see"),
])
def test_errors_speak_of_flags(arguments, told, tmp_path, monkeypatch, capsys):
    if "latin1.txt" in arguments:
        monkeypatch.chdir(tmp_path)
        Path("latin1.txt").write_bytes(b"caf\xe9\n" * 100)
    assert main(arguments) in (1, 2)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("message", [
    "the prompt has 'seed=3' at position 0.", "there is no model file '/steps=3/m.npz'.", "give colour='red'.",
    "the seed is lost.",
])
def test_other_words_stay_as_they_are(message):
    assert with_flags(message) == message


@given(st.sampled_from(sorted(OPTIONS)), st.from_regex(r"[a-z0-9.]*[a-z0-9]", fullmatch=True),
       st.sampled_from(["", "'", '"']))
def test_every_option_is_told_as_its_flag(name, value, quote):
    message = f"{name} is wrong, try {name}={quote}{value}{quote}, or (another {name}={quote}{value}{quote})."
    told = f"{flag(name)} is wrong, try {flag(name)} {value}, or (another {flag(name)} {value})."
    assert with_flags(message) == told


@pytest.mark.parametrize(("error", "code"), [
    (KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1), (MemoryError("too large"), 1),
])
def test_exit_codes(error, code, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(LanguageModel, "load", fail)
    assert main(["info", "char.npz"]) == code
    told = f"error: {error}" if code == 1 else "interrupted"
    assert capsys.readouterr().err == f"numba-rnnlm: {told}\n"


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
                         (None, "standard input is closed; give the name of a file, or something to read.")):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(command.split()) == 1
        assert capsys.readouterr().err == f"numba-rnnlm: error: {words}\n"


def test_exit_codes_are_documented(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "exit codes of every command:" in told
    for code in (0, 1, 2, 3, 128):
        assert f"\n  {code} " in told


def test_out_is_not_the_checkpoint_of_a_run_that_has_not_ended(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run.npz"
    train = ["train", "text.txt", *SMALL, *BRIEF]
    with monkeypatch.context() as patch:
        patch.setattr("numba_rnnlm.training.loop.Trainer._train", lambda self: None)
        assert main([*train, "--checkpoint", str(run), "--out", str(tmp_path / "m.npz")]) == 0
    before = run.read_bytes()
    assert main([*train, "--out", str(run)]) == 1
    assert f"--out is {str(run)!r}, the checkpoint of a run that has not ended; it is not replaced" in capsys.readouterr().err and run.read_bytes() == before
    assert main(["train", "text.txt", "--resume", str(run), "--out", str(run), "--verbose", "0"]) == 0  # it ends there
    assert LanguageModel.load(run).history_["epoch"] == [1, 2]


@pytest.mark.parametrize("kept", [False, True])
def test_a_model_that_cannot_be_saved_where_it_should_is_saved_elsewhere(kept, tmp_path, capsys, monkeypatch):
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
    told = capsys.readouterr().err
    assert "error: cannot write it." in told and (f"--resume {tmp_path / 'out' / 'run.npz'} writes the model from it." in told) == kept


def test_errors_that_are_bugs_are_not_hidden(monkeypatch):
    monkeypatch.setattr(LanguageModel, "load", None)
    with pytest.raises(TypeError):
        main(["info", "char.npz"])


def test_a_warning_is_one_line(capsys, tmp_path):
    out = str(tmp_path / "m.npz")
    assert main(["train", "held_out.txt", "--out", out, *SMALL, "--epochs", "1", "--streams", "50", "--steps", "50", "--verbose", "0", "--validation-split", "0"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("numba-rnnlm: warning: the corpus has ") and err.count("\n") == 1


# train


def test_train_is_the_library(tmp_path, capsys):
    out = tmp_path / "m.npz"
    arguments = ["--seed", "3", "--streams", "4", "--steps", "10", "--epochs", "2"]
    assert main(["train", "text.txt", "--valid", "held_out.txt", "--out", str(out), *SMALL, *arguments]) == 0
    same = LanguageModel(hidden=8, layers=1, embedding=4, seed=3)
    same.fit(Path("text.txt"), Path("held_out.txt"), streams=4, steps=10, epochs=2, verbose=0)
    saved = LanguageModel.load(out)
    for name, weights in same.network_.weights().items():
        np.testing.assert_array_equal(saved.network_.weights()[name], weights)
    told = capsys.readouterr().out
    best = min(same.history_["valid_loss"])
    assert f"validation loss {best:.4f} nats/token, perplexity {np.exp(best):.2f}" in told
    assert f"{same.bits_per_character(HELD_OUT):.3f} bits/character" in told
    assert told.startswith("optimizer adam, learning rate 0.004, schedule linear\n")
    assert f"saved {out} (" in told and f"{same.parameter_count:,} weights" in told
    assert f"numba-rnnlm generate {out} --prompt TEXT" in told and f"numba-rnnlm eval {out} held_out.txt" in told


@pytest.mark.parametrize(("text", "words"), [("", "holds no symbols"), ("a", "expected at least 2")])
def test_an_error_of_the_text_is_all_that_is_shown(text, words, tmp_path, capsys):
    (tmp_path / "text").write_text(text)
    arguments = [str(tmp_path / "text"), "--checkpoint", str(tmp_path / "c.npz"), "--resume", str(tmp_path / "c.npz")]
    assert main(["train", *arguments, "--out", str(tmp_path / "m.npz"), *SMALL]) == 1
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1


def test_train_without_validation_says_so(tmp_path, capsys):
    assert main(["train", "text.txt", "--out", str(tmp_path / "m.npz"), *SMALL, *BRIEF, "--verbose", "2"]) == 0
    loss = LanguageModel.load(tmp_path / "m.npz").history_["loss"][-1]
    assert f"training loss {loss:.4f} nats/token" in capsys.readouterr().out


def test_verbose_0_is_silent(tmp_path, capsys):
    (tmp_path / "known.txt").write_text("the dog sees the dog\n")
    assert main(["train", "text.txt", "--valid", str(tmp_path / "known.txt"), "--out", str(tmp_path / "m.npz"), *SMALL, *BRIEF]) == 0
    assert capsys.readouterr() == ("", "")


def test_train_from_goes_on(tmp_path):
    out = tmp_path / "m.npz"
    assert main(["train", "text.txt", "--from", "char.npz", "--out", str(out), *BRIEF]) == 0
    same = LanguageModel.load("char.npz").fit(Path("text.txt"), epochs=2, streams=4, steps=10, verbose=0, validation_split=0.05)
    saved = LanguageModel.load(out)
    assert saved.history_["epoch"] == [1, 2, 3, 4]
    for name, weights in same.network_.weights().items():
        np.testing.assert_array_equal(saved.network_.weights()[name], weights)


@pytest.mark.parametrize("given", [["--hidden", "128"], ["--no-tied"], ["--tokenizer", "char"], ["--seed", "0"]])
def test_train_from_refuses_what_the_saved_model_decides(given, tmp_path, capsys):
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
    out.write_bytes(b"")  # as mktemp makes one
    assert main(train) == 0 and LanguageModel.load(out).parameter_count > 0


def trained(*arguments, text="text.txt"):
    return main(["train", text, *SMALL, *BRIEF, *arguments])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with text.txt, others.txt of the same ids, and held_out.txt."""
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
        told = capsys.readouterr().out
        assert told.startswith(f"model.npz exists: the model will be saved as {name}\n")
        assert f"\nsaved {name} (" in told and f"numba-rnnlm generate {name} " in told
        assert Path(name).read_bytes() == first
    assert Path("model.npz").read_bytes() == first and Path("model-3.npz").read_text() == "a file of something else"


@pytest.mark.parametrize("there", ["text", "folder", "link", "sequential"])
def test_whatever_has_the_default_name_stays(there, elsewhere):
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


def test_a_default_name_that_is_taken_while_it_trains(elsewhere, monkeypatch, capsys):
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


def test_why_a_model_of_the_same_text_has_another_vocabulary(elsewhere, capsys):
    Path("text.txt").write_text(TEXT * 2 + "Zebra\n")
    assert main(["train", "text.txt", "--out", "m.npz", *SMALL, "--epochs", "1", "--verbose", "0"]) == 0
    for _ in range(2):
        assert trained("--out", "m.npz", "--min-count", "2") == 1
        assert capsys.readouterr().err.endswith(
            "a model of the same text with another vocabulary (--min-count 1 there, 2 here; held out from it: 5% of the text there, nothing here, which "
            "--valid and --validation-split decide); it is not replaced. Give another name, or --overwrite.\n")
    assert main(["train", "text.txt", "--from", "m.npz", "--extend-vocabulary", "--out", "n.npz", *BRIEF]) == 0
    assert main(["train", "text.txt", "--from", "m.npz", "--out", "n.npz", *BRIEF]) == 1
    assert "(with other symbols, from a model that was trained before)" in capsys.readouterr().err


CUT_SHORT = "stays as it was, because only a complete training replaces a model"


@pytest.fixture
def stopped(monkeypatch):
    """A training that is interrupted in its second epoch."""
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
    assert stopped(*out) == 130  # nothing is lost
    assert trained(*out, "--epochs", "1") == 0  # complete, though of fewer epochs than what follows
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
        assert Path("m.npz").read_bytes() == whole  # the complete model with the same settings stays
        lengths.append(LanguageModel.load("m-2.npz").history_["epoch"][-1])
    assert lengths[0] < lengths[1] and not Path("m-3.npz").exists()
    assert stopped("--resume", "run.npz", "--out", "run.npz", "--epochs", "4") == 130 and Path("run-2.npz").exists()
    assert trained(*run) == 0 and Path("m.npz").read_bytes() == whole


@pytest.mark.parametrize("words", [[], ["--resume", "run.npz"], ["--resume", "./run.npz"]])
def test_what_continues_an_interrupted_training_is_told(words, elsewhere, stopped, capsys):
    assert stopped("--checkpoint", "run.npz", "--out", "a b.npz", *words, "--verbose", "2") == 130
    (command,) = re.findall(r"^next:\n  (numba-rnnlm train .*)$", capsys.readouterr().out, re.MULTILINE)
    assert command.count("--resume") == 1 and main(shlex.split(command)[1:]) == 0
    continued = Path("a b.npz").read_bytes()
    assert trained("--out", "whole.npz") == 0 and Path("whole.npz").read_bytes() == continued
    assert stopped("--verbose", "2") == 130 and "\nnext:\n  numba-rnnlm generate " in capsys.readouterr().out


def test_two_trainings_do_not_write_one_model(elsewhere, capsys):
    with locked("m.npz", "model"), locked("model.npz", "model"):
        assert trained("--out", "m.npz") == 1
        assert f"error: the model 'm.npz' is being written by process {os.getpid()} on host " in capsys.readouterr().err
        assert trained("--verbose", "2") == 0
    assert capsys.readouterr().out.startswith("model.npz is being written by another training: the model will be saved as model-2.npz\n")
    assert sorted(os.listdir()) == ["held_out.txt", "model-2.npz", "others.txt", "text.txt"]


def test_nothing_is_shown_before_a_refusal(elsewhere, capsys):
    assert trained() == 0
    Path("folder.csv").mkdir()
    for arguments, told in ((["--log", "nowhere/log.csv"], "cannot write the log"), (["--log", "folder.csv"], "cannot read the log")):
        assert trained("--verbose", "2", *arguments) == 1
        out, err = capsys.readouterr()
        assert out == "" and told in err


def test_the_summary_has_bits_of_what_was_predicted(elsewhere, capsys):
    for tokenizer, unit in (("byte", "byte"), ("char", "character")):
        assert trained("--tokenizer", tokenizer, "--valid", "held_out.txt", "--verbose", "2") == 0
        assert re.search(rf"^best validation loss .*, \d\.\d{{3}} bits/{unit}$", capsys.readouterr().out, re.MULTILINE)


def test_an_output_that_is_another_file_of_the_command(elsewhere, capsys):
    Path("link.npz").symlink_to("held_out.txt")
    Path("loop.npz").symlink_to("loop.npz")
    target, loop = str(elsewhere / "held_out.txt"), "a link that leads back to itself"
    for arguments, told in (
        (["--out", "text.txt"], "--out is 'text.txt', and CORPUS is the same file; give it a name of its own."),
        (["--out", "link.npz"], f"--out is 'link.npz', a link to {target!r}, and --valid is the same file; give it a name of its own."),
        (["--out", "m.npz", "--checkpoint", "m.npz"], "--checkpoint is 'm.npz', and --out is the same file; give it a name of its own."),
        (["--out", "loop.npz"], f"--out: cannot write 'loop.npz': it is {loop}; give another name."),
        (["--checkpoint", "loop.npz"], f"--out: cannot write 'loop.npz': it is {loop}; give another name."),
    ):
        assert trained(*arguments, "--valid", "held_out.txt") in (1, 2)
        assert told.removeprefix("--out: ") in capsys.readouterr().err
    assert Path("loop.npz").is_symlink()


def test_what_else_out_does_not_replace(elsewhere, capsys):
    def header(change):
        """m.npz with another header."""
        with np.load("whole.npz") as file:
            arrays = dict(file)
        about = change(json.loads(arrays.pop("about").tobytes()))
        np.savez("m.npz", about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)

    assert trained("--out", "whole.npz", "--checkpoint", "run.npz") == 0
    for texts in ("missing", None, 3, [], {}, {"corpus": 3}):
        header(lambda about, texts=texts: {**about, "texts": texts} if texts != "missing" else {
            key: value for key, value in about.items() if key != "texts"})
        assert trained("--out", "m.npz") == 1
        assert "--out is 'm.npz', a model that does not tell on which text it was trained; it is not replaced" in capsys.readouterr().err
    assert trained("--out", "run.npz") == 0  # a run of the same text that has ended
    assert trained("--checkpoint", "run.npz", "--out", "n.npz") == 1
    assert "'run.npz' is a model file; a checkpoint would take its place" in capsys.readouterr().err
    LanguageModel().fit_config("text.txt", None, TrainingConfig(epochs=1, verbose=0), CheckpointConfig("run2.npz"))
    assert trained("--checkpoint", "run2.npz", "--out", "n.npz", text="others.txt") == 1
    assert "--checkpoint is 'run2.npz', a model of another text" in capsys.readouterr().err
    assert trained("--checkpoint", "run2.npz", "--out", "n.npz", "--overwrite", text="others.txt") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train", lambda self: None)
        LanguageModel().fit_config("text.txt", None, TrainingConfig(epochs=1, verbose=0), CheckpointConfig("run3.npz"))
    assert trained("--out", "run3.npz") == 1
    assert "--out is 'run3.npz', the checkpoint of a run that has not ended; it is not replaced" in capsys.readouterr().err


def test_a_resumed_run_without_out_replaces_what_it_saved_itself(elsewhere, capsys):
    run = ["--checkpoint", "run.npz", "--resume", "run.npz"]
    assert trained("--schedule", "constant") == 0
    other = Path("model.npz").read_bytes()
    assert trained("--schedule", "constant", "--learning-rate", "0.001", *run) == 0
    assert os.listdir().count("model-2.npz") == 1 and Path("model.npz").read_bytes() == other
    short = Path("model-2.npz").read_bytes()
    assert main(["train", "text.txt", *run, "--epochs", "3", "--verbose", "0"]) == 0
    assert Path("model.npz").read_bytes() == other and not Path("model-3.npz").exists()
    assert Path("model-2.npz").read_bytes() != short and LanguageModel.load("model-2.npz").history_["epoch"] == [1, 2, 3]


def test_a_run_goes_on_longer_in_another_process(elsewhere):
    def done(*arguments):
        run = process("train", "text.txt", *SMALL, *BRIEF, "--schedule", "plateau", *arguments)
        told, err = run.communicate(timeout=HANG)
        return run.returncode, told, without_notice(err)

    assert done("--out", "whole.npz", "--epochs", "4", "--seed", "2") == (0, b"", b"")
    assert done("--out", "part.npz", "--checkpoint", "run.npz", "--seed", "2") == (0, b"", b"")
    assert done("--out", "part.npz", "--resume", "run.npz", "--epochs", "4", "--seed", "2") == (0, b"", b"")
    assert Path("part.npz").read_bytes() == Path("whole.npz").read_bytes()


def test_the_held_out_text_is_not_read_again_after_the_training(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(LanguageModel, "evaluate", None)
    assert trained("--valid", "held_out.txt", "--verbose", "2", "--validate-every", "20", "--max-seconds", "1h", "--log", "log.csv") == 0
    assert "\nbest validation loss " in capsys.readouterr().out
    assert len(Path("log.csv").read_text().splitlines()) > 3


def test_train_interrupted_twice_says_that_nothing_was_saved(tmp_path, monkeypatch, capsys):
    def fit(*arguments, **options):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(LanguageModel, "fit_config", fit)
    assert main(["train", "text.txt", "--out", str(tmp_path / "m.npz"), "--verbose", "0"]) == 143
    assert capsys.readouterr() == ("", "numba-rnnlm: interrupted, nothing was saved\n")
    assert not any(tmp_path.iterdir())


WILD = ["--cell", "relu", "--optimizer", "sgd", "--learning-rate", "1e6", "--clip-norm", "0", "--verbose", "0",
        "--epochs", "9", "--streams", "1"]


def test_divergence_after_an_epoch_saves_what_was_kept(tmp_path, capsys):
    out = tmp_path / "m.npz"
    late = ["--warmup", "1", "--steps", "100000"]  # one update an epoch, the first one at a rate of 0
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


def test_divergence_at_once_saves_nothing(tmp_path, capsys):
    out = tmp_path / "m.npz"
    assert main(["train", "text.txt", "--out", str(out), *SMALL, *WILD, "--steps", "10"]) == 1
    assert "diverged" in capsys.readouterr().err and not out.exists()


def test_interrupted_training_is_saved(tmp_path):
    out = tmp_path / "m.npz"
    run = process("train", "text.txt", "--out", str(out), *SMALL, "--epochs", "1000000", "--streams", "4")
    assert any(line.startswith(b"epoch 1") for line in run.stdout)
    run.send_signal(signal.SIGINT)
    told, err = run.communicate(timeout=HANG)
    assert run.returncode == 130 and b"Traceback" not in err and b"stopped: interrupted" in told and b"saved " in told
    assert LanguageModel.load(out).history_["epoch"][-1] >= 1


# eval


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz"])
def test_eval(model, capsys):
    assert main(["eval", model, "held_out.txt", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = LanguageModel.load(model).evaluate(HELD_OUT)
    assert told == {name: getattr(found, name) for name in (
        "perplexity", "nats_per_token", "bits_per_token", "bits_per_character", "bits_per_byte", "tokens", "oov",
        "characters", "bytes", "bos", "unknown",
    )}
    assert main(["eval", model, "held_out.txt", "--bos", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nats_per_token"] == LanguageModel.load(model).evaluate(HELD_OUT, bos=True).nats_per_token
    assert main(["eval", model, "held_out.txt", "--bos"]) == 0
    assert f"\ntokens             {found.tokens + 1}\n" in capsys.readouterr().out
    assert main(["eval", model, "held_out.txt"]) == 0
    rows = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows == {
        "perplexity": f"{found.perplexity:.4f}", "nats/token": f"{found.nats_per_token:.4f}",
        "bits/character": f"{found.bits_per_character:.4f}", "bits/byte": f"{found.bits_per_byte:.4f}",
        "tokens after the first": str(found.tokens), "out of vocabulary": str(found.oov),
    }


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz"])
def test_eval_of_rounded_weights(model, capsys):
    told = {}
    for weights in ("float32", "int8"):
        assert main(["eval", model, "held_out.txt", "--json", "--weights", weights]) == 0
        told[weights] = json.loads(capsys.readouterr().out)["nats_per_token"]
        assert told[weights] == LanguageModel.load(model).evaluate(HELD_OUT, weights=weights).nats_per_token
    assert told["int8"] != told["float32"] and told["int8"] == pytest.approx(told["float32"], rel=1e-3)


def test_eval_of_bytes_in_which_no_character_begins(tmp_path, capsys):
    (tmp_path / "bytes").write_bytes(b"\x80\x80")
    assert main(["eval", "byte.npz", str(tmp_path / "bytes")]) == 0
    assert "\nbits/character          no\n" in capsys.readouterr().out


def test_eval_of_one_line_is_its_score(tmp_path, capsys):
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
    told = capsys.readouterr().out
    assert np.array(told.split(), float) == pytest.approx(want, abs=1e-5)
    for arguments in ([], ["-"]):
        typed(monkeypatch, data.encode())
        assert main(["score", model, *arguments]) == 0
        assert capsys.readouterr().out == told


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
        told = json.loads(line)
        assert [oov for _, _, oov in told["scores"]] == [oov for _, _, oov in scores]
        assert [token for token, _, oov in told["scores"] if oov] == [token for token, _, oov in scores if oov]
        assert told["log_probability"] == pytest.approx(sum(nats for _, nats, _ in scores), abs=1e-4)
        assert (told["tokens"], told["oov"]) == (len(scores), sum(oov for _, _, oov in scores))

    typed(monkeypatch, "\n".join(LINES).encode())
    assert main(["score", model, "--normalize"]) == 0
    tokens = [token for token, _, _ in told["scores"]]  # of the last line
    assert tokens == ["dog"] * 100 + ["\n"] if model == "word.npz" else "".join(tokens) == LINES[-1] + "\n"
    means = [np.mean([nats for _, nats, _ in scores]) for scores in want]
    assert np.array(capsys.readouterr().out.split(), float) == pytest.approx(means, abs=1e-5)


def test_score_of_equal_lines_some_at_a_time(monkeypatch, capsys):
    monkeypatch.setattr(sources, "LINES", 3)
    lines = ["the cat", "", "", "", "the cow", "the cat", "the cow", "the cow"]
    typed(monkeypatch, "\n".join(lines).encode())
    assert main(["score", "word.npz", "--json"]) == 0
    told, report = capsys.readouterr()
    for line in sorted(set(lines)):
        typed(monkeypatch, line.encode() + b"\n")
        assert main(["score", "word.npz", "--json"]) == 0
        alone = capsys.readouterr().out
        assert [one + "\n" == alone for one in told.splitlines()] == [one == line for one in lines]
    assert "3 of 18, in 3 of 8 lines" in report and "'cow' (3 times)" in report
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
    told = capsys.readouterr().err
    assert "error: standard input, line 2: The text is not UTF-8: the byte at offset 1 is 0xff." in told and "give --encoding cp1252" in told


def test_a_line_as_long_as_the_text_is_joined_once():
    """In pieces of 1 kB: joined with each of them, 24 MB would be copied 300 GB."""
    data = b"." * 24_000_000 + b"\nend"
    pieces = Text("pipe", [Part("pipe", lambda: (data[start : start + 1024] for start in range(0, len(data), 1024)))])
    assert [len(line) for lines in pieces.lines("keep") for line in lines] == [24_000_000, 3]


def test_tokens_in_json_are_text(monkeypatch, capsys):
    typed(monkeypatch, "é\\\tz".encode())
    assert main(["score", "byte.npz", "--per-token", "--json"]) == 0
    assert [token for token, _, _ in json.loads(capsys.readouterr().out)["scores"]] == ["", "é", "\\", "\t", "z", "\n"]


@pytest.mark.parametrize("model", ["char.npz", "word.npz"])
def test_any_line_end(model, monkeypatch, capsys):
    told = set()
    for end in (b"\n", b"\r\n", b"\r"):
        typed(monkeypatch, b"the cat" + end + end + b"dog" + end)
        assert main(["score", model, "--json"]) == 0
        told.add(capsys.readouterr().out)
    assert len(told) == 1 and told.pop().count("\n") == 3


# A line that begins with a dot begins neither as a packed file nor with a byte order mark.
@given(st.lists(st.just(b"") | st.binary(max_size=20).map(lambda line: b"." + line.replace(b"\n", b"")), max_size=8), st.integers(1, 30))
def test_lines_arrive_whole_however_they_are_cut(lines, size):
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


def test_score_answers_a_slow_pipe_at_once():
    run = process("score", "char.npz")
    for line in ("the cat", "the dog"):
        run.stdin.write(f"{line}\n".encode())
        run.stdin.flush()
        assert float(run.stdout.readline()) == pytest.approx(LanguageModel.load("char.npz").score(line), abs=1e-5)
    told, err = run.communicate(timeout=HANG)
    assert (told, without_notice(err), run.returncode) == (b"", b"", 0)


# generate


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz"])
def test_generate(model, monkeypatch, capsys):
    options = {"length": 12, "temperature": 0.5, "top_k": 5, "top_p": 0.9}
    flags = [f"{flag(name)}={value}" for name, value in options.items()]
    loaded = LanguageModel.load(model)
    end = "\n" * (model != "byte.npz")  # bytes in a file end where they end
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
def test_samples_are_written_side_by_side_as_alone(weights, samples, capsys):
    options = {"length": 20, "top_p": 0.9, "weights": weights}
    flags = [f"{flag(name)}={value}" for name, value in options.items()]
    loaded = LanguageModel.load("char.npz")
    texts = ["the " + loaded.generate("the ", **options, seed=7 + sample) + "\n" for sample in range(samples)]
    assert main(["generate", "char.npz", "the ", "--seed", "7", "--samples", str(samples), *flags]) == 0
    assert capsys.readouterr().out == "\n".join(texts)


def test_samples_without_a_seed_differ(capsys):
    assert main(["generate", "char.npz", "--length", "60", "--samples", "2", "--temperature", "5"]) == 0
    told = capsys.readouterr().out
    assert len(told) == 2 * 61 + 1 and told[:60] != told[62:122]


def test_generate_without_a_prompt_or_a_seed(capsys):
    outs = set()
    for _ in range(2):
        assert main(["generate", "char.npz", "--length", "60"]) == 0
        outs.add(capsys.readouterr().out)
    assert len(outs) == 2 and {len(out) for out in outs} == {61}


def test_generate_reads_unknown_symbols_if_told_to(capsys):
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


# info


def test_info_of_the_machine(capsys):
    assert main(["info"]) == 0
    told = capsys.readouterr().out
    for part in (numba_rnnlm.__version__, np.__version__, "cpu, reference", "bits", "kernel cache"):
        assert part in told


def test_info_of_a_model(capsys):
    assert main(["info", "word.npz"]) == 0
    told = capsys.readouterr().out
    model = LanguageModel.load("word.npz")
    rows = [line.split(maxsplit=1) for line in told.splitlines()]
    assert ["hidden", "8"] in rows and ["tokenizer", "word"] in rows and ["seed", "0"] in rows
    assert ["weights", f"{model.parameter_count:,}"] in rows
    assert ["vocabulary", "6 symbols: '<unk>' '<eos>' 'the' 'cat' 'dog' 'sees'"] in rows
    assert f"loss {model.history_['loss'][-1]:.4f}" in told and "epochs trained" in told
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
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("layer ", "layer-").splitlines())
    assert rows["weights"] == f"{model.count_params():,}" and rows["seed"] == "3"
    assert rows["layer-2"].startswith("LSTM(") and "units=16" in rows["layer-2"]
    assert rows["optimizer"].startswith("adam(") and "learning_rate=0.001" in rows["optimizer"]
    assert (rows["loss"], rows["metrics"]) == ("sparse_categorical_crossentropy", "accuracy")


@pytest.mark.parametrize("about", [{}, {"layers": 3}, {"layers": [{}], "compiled": None, "seed": 0}], ids=str)
def test_info_of_a_damaged_sequential(about, tmp_path, capsys):
    write_model(tmp_path / "m.npz", "sequential", about, {"weights": []})
    assert main(["info", str(tmp_path / "m.npz")]) == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["char.npz", "word.npz", "byte.npz", "ids.npz"])
def test_info_as_json(model, capsys):
    assert main(["info", model, "--json"]) == 0
    told, loaded = json.loads(capsys.readouterr().out), LanguageModel.load(model)
    assert (told["kind"], told["weights"], told["file"]) == ("language_model", loaded.parameter_count, model)
    assert told["bytes"] == Path(model).stat().st_size and told["config"]["hidden"] == loaded.get_params()["hidden"]
    assert told["history"]["loss"] == loaded.history_["loss"] and set(told["history"]["seconds"]) <= {None}
    assert (None if told["vocabulary"] is None else len(told["vocabulary"])) == (loaded.tokenizer_.size if loaded.tokenizer_ else None)
    assert told["texts"] == read_about(model).get("texts") and ("run" in told) is False
    assert told["epochs"] == (2 if loaded.tokenizer_ else 0)


def test_info_as_json_of_anything_else(tmp_path, capsys):
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == numba_rnnlm.__version__ and "cpu" in told["backends"] and told["threads"] >= 1
    model = Sequential([Embedding(4, 8), LSTM(16), Dense(4, activation="softmax")], seed=3)
    for compiled in (False, True):
        if compiled:
            model.compile("adam", loss="sparse_categorical_crossentropy")
        model.save(tmp_path / "m.npz")
        assert main(["info", str(tmp_path / "m.npz"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["kind"], told["weights"], told["seed"], len(told["layers"])) == ("sequential", model.count_params(), 3, 3)
        assert (told["compiled"] is not None) == compiled
    checkpoint = str(tmp_path / "run.npz")
    LanguageModel(hidden=4, layers=1).fit("a rose\n" * 9, epochs=1, checkpoint=checkpoint, verbose=0, streams=1, steps=5)
    assert main(["info", checkpoint, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "checkpoint" and told["run"]["position"]["ended"] == "all epochs are done" and told["run"]["training"]["epochs"] == 1


# warmup

COMPILED = """
import sys
from numba.core import event
from numba_rnnlm.cli import main
with event.install_recorder("numba:compile") as record:
    for command in sys.stdin.read().splitlines():
        assert main(command.split()) == 0, command
print(sorted({begun.data["dispatcher"].py_func.__name__ for _, begun in record.buffer}), file=sys.stderr)
"""
ALL_OF_IT = """
train text.txt --valid held_out.txt --cell tanh --hidden 24 --dropout 0.5 --epochs 2 --out {0}/tied.npz --tied --tokenizer word
train text.txt --valid held_out.txt --cell tanh --hidden 72 --layers 3 --epochs 1 --out {0}/deep.npz --clip-value 1
train text.txt --cell tanh --streams 1 --steps 3 --max-seconds 1 --out {0}/one.npz --reduction sum_time
train text.txt --from {0}/deep.npz --epochs 1 --out {0}/deep.npz
eval {0}/deep.npz text.txt
eval {0}/tied.npz held_out.txt --weights int8
score {0}/deep.npz text.txt --per-token
generate {0}/deep.npz the --top-k 3 --top-p 0.9 --length 20
generate {0}/deep.npz --temperature 0
generate {0}/deep.npz the --weights int8
generate {0}/tied.npz the --samples 3
generate {0}/tied.npz --samples 2 --weights int8
""".strip()  # fmt: skip


def test_after_a_warmup_nothing_is_compiled(tmp_path, monkeypatch):
    kernels = tmp_path / "kernels"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(kernels))

    def files():
        return {path: path.stat().st_mtime_ns for path in kernels.rglob("*") if path.is_file()}

    cold = process("warmup", "--cells", "tanh", "--backend", "cpu")
    told, shown = cold.communicate(timeout=HANG)
    assert cold.returncode == 0
    assert told.startswith(f"kernels are stored in {kernels / 'numba_rnnlm'}; ".encode()) and told.endswith(b" s\n")
    assert shown.startswith(b"tanh: ") and shown.endswith(b" s\n") and shown.count(b"\n") == 1
    kept = files()
    assert len(kept) > 50
    with (tmp_path / "commands").open("w+") as commands:
        commands.write("".join(f"{line} --backend cpu\n" for line in ALL_OF_IT.format(tmp_path).splitlines()))
        commands.seek(0)
        used = subprocess.run([sys.executable, "-c", COMPILED], stdin=commands, capture_output=True, timeout=HANG,
                              env={**os.environ, "PYTHONPATH": HOME})
    assert used.stderr.splitlines()[-1] == b"[]" and used.returncode == 0
    assert files() == kept


@pytest.mark.parametrize("settings", [
    {"NUMBA_CACHE_DIR": "text.txt/kernels"}, {"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_CACHE_DIR": "", "HOME": "nowhere"},
], ids=str)  # fmt: skip
def test_warmup_says_at_once_that_nothing_is_kept(settings, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    run = process("warmup", "--backend", "cpu")
    told, shown = run.communicate(timeout=HANG)
    assert run.returncode == 1 and told == b""
    assert shown.startswith(b"numba-rnnlm: error: nothing was compiled") and shown.count(b"\n") == 1


def test_warmup_says_why_nothing_would_be_stored(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file"))
    assert main(["warmup", "--backend", "cpu"]) == 1
    assert "file' is no folder); set NUMBA_CACHE_DIR to a folder that you can write" in capsys.readouterr().err
    monkeypatch.setattr(backends, "COMPILER_IS_OFF", True)
    assert main(["warmup", "--backend", "cpu"]) == 1
    assert "NUMBA_DISABLE_JIT is set; unset it" in capsys.readouterr().err


def test_warmup_takes_what_is_asked_for(monkeypatch, capsys):
    used = []
    monkeypatch.setattr(cli.warmup, "use", lambda cell, configs, weights, machine: used.append((cell, configs, machine)))
    assert main(["warmup", "--backend", "cpu", "--optimizers", "sgd", "adam", "--threads", "2"]) == 0
    assert [cell for cell, _, _ in used] == list(CELLS)
    for _, configs, machine in used:
        rules = {make_optimizer(config, "tanh").rule.name for config in configs}
        assert rules == {"sgd", "momentum", "adam"}
        assert machine == {"backend": "cpu", "threads": 2, "precision": "float32"}
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and err.count("\n") == len(CELLS)
    used.clear()
    assert main(["warmup", "--backend", "cpu", "--optimizers", "all", "--cells", "gru"]) == 0
    ((cell, configs, _),) = used
    assert cell == "gru" and {config.optimizer for config in configs} == set(OPTIMIZERS)


# demo


def test_the_demo_replaces_only_models_of_its_own(elsewhere, monkeypatch, capsys):
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
    told, err = capsys.readouterr()
    assert "warning" not in err
    model = LanguageModel.load("numba_rnnlm_demo.npz")
    assert f"held out: {model.bits_per_character(demo.documentation()[1]):.3f} bits/character" in told
    assert "\nThe function " in told and "saved numba_rnnlm_demo.npz" in told
    assert " tokens: 2 seconds, at most 1,000 epochs, streams 32, steps 50\n" in told


def test_the_text_of_the_demo_is_prose():
    text = "".join(demo.documentation())
    assert not any(mark in text for mark in ("|", "---", "==="))
    assert len(text) > 200_000 and text.count(" ") < len(text) / 3


def test_nothing_held_out_is_trained_on():
    training, held_out = demo.documentation()
    assert training.endswith("\n") and held_out.endswith("\n")
    assert 0.03 < len(held_out) / len(training + held_out) < 0.07
    seen = set(training.split("\n\n"))
    assert not [paragraph for paragraph in held_out.split("\n\n")[1:] if paragraph and paragraph in seen]


def test_demo_without_documentation(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert main(["demo"]) == 1
    assert "numba-rnnlm train FILE" in capsys.readouterr().err
