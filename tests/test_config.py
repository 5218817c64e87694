"""Options are validated on construction, and survive a round trip through a file."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from numba_rnnlm import optimizers
from numba_rnnlm.config import (
    INITIALIZERS,
    LINE_ENDS,
    NOT_FINITE,
    OPTIMIZERS,
    REDUCTIONS,
    SCHEDULES,
    SIZES,
    TOKENIZERS,
    UNKNOWN,
    WEIGHTS,
    CheckpointConfig,
    ModelConfig,
    SamplingConfig,
    TextConfig,
    TrainingConfig,
    UnknownConfig,
)
from numba_rnnlm.errors import ConfigError

CONFIGS = (ModelConfig, TextConfig, TrainingConfig, CheckpointConfig, SamplingConfig, UnknownConfig)
every_config = pytest.mark.parametrize("config", CONFIGS)

NAN, INFINITY = float("nan"), float("inf")
NOT_COUNTS = (0, -1, 1.5, 2.0, "2", NAN, INFINITY, True, None, [3])  # invalid where a positive integer is required
NOT_COUNTS_BUT_NONE = tuple(value for value in NOT_COUNTS if value is not None)
NOT_NUMBERS = ("1", NAN, False, [0.5], np.array([0.5]), 1j)

INVALID = {
    ModelConfig: {
        "cell": ("", None, 3),
        "hidden": NOT_COUNTS_BUT_NONE,
        "layers": NOT_COUNTS_BUT_NONE,
        "embedding": NOT_COUNTS_BUT_NONE,
        "architecture": ("transformer", None, 3),
        "kernel": NOT_COUNTS,
        "window": NOT_COUNTS,
        "dropout": (*NOT_NUMBERS, None, -0.1, 1, 1.5),
        "tied": ("no", 2, None),
        "forget_bias": (*NOT_NUMBERS, None, INFINITY, -101),
        "initializer": ("zeros", None, 1),
        "initializer_scale": (*NOT_NUMBERS, None, 0, -0.1, INFINITY),
        "vocabulary_size": (1, 0, 5.0, "5", 2**31),
    },
    TextConfig: {
        "tokenizer": ("bpe", 1, ""),
        "min_count": NOT_COUNTS,
        "max_vocabulary": (2, 0, -5, 10.0, "10"),
        "line_ends": ("crlf", "", 1),
    },
    TrainingConfig: {
        "epochs": NOT_COUNTS_BUT_NONE,
        "streams": NOT_COUNTS_BUT_NONE,
        "steps": NOT_COUNTS_BUT_NONE,
        "optimizer": ("lbfgs", None, "Adam"),
        "learning_rate": (*NOT_NUMBERS, 0, -1, INFINITY),
        "momentum": (*NOT_NUMBERS, None, -0.1, 1),
        "weight_decay": (*NOT_NUMBERS, -0.1, 1.5),
        "schedule": ("step", None),
        "warmup": (*NOT_NUMBERS, None, -0.1, 1.1),
        "validation_split": (*NOT_NUMBERS, None, -0.1, 1),
        "decay_factor": (*NOT_NUMBERS, None, 1, 0.5),
        "decay_after": NOT_COUNTS,
        "clip_norm": (*NOT_NUMBERS, -1),
        "clip_value": (*NOT_NUMBERS, -1),
        "reduction": ("sum", None),
        "accumulate": (0, -1, 1.5, "2"), "patience": (0, -1, 1.5, "3"),
        "validate_every": (0, -1, 1.5, "3"),
        "max_seconds": (NAN, False, [0.5], np.array([0.5]), 1j, 0, -1, INFINITY, "", "soon", "1h30", "-3s", "1:30", "3 parsecs", "h"),
        "not_finite": ("ignore", None, True),
        "extend_vocabulary": (None, 2, "yes"),
        "verbose": (3, -1, "loud", None),
    },
    CheckpointConfig: {
        "checkpoint": (),
        "checkpoint_every": ("", "5 minuets", "min", 0, -1, "0s", "-3s", NAN, INFINITY, None, "1e99d", True, "5min 3"),
        "resume": (),
        "log": ("log", "log.txt", "csv", "log.csv.gz"),
    },
    UnknownConfig: {
        "unknown": ("skip", None, True),
        "penalty": (*NOT_NUMBERS, -1, 1e9),
    },
    SamplingConfig: {
        "length": (-1, 1.5, "10", None, NAN),
        "temperature": (*NOT_NUMBERS, None, -0.1, INFINITY),
        "top_k": (-1, 2.5, "3", None),
        "top_p": (*NOT_NUMBERS, None, 0, -0.5, 1.5),
        "seed": (-1, 0.5, "1", 2**63),
        "weights": ("int4", None, 8),
    },
}
FIELDS = [(config, field.name) for config in CONFIGS for field in fields(config)]


@pytest.mark.parametrize(("config", "name"), FIELDS)
def test_invalid_values_are_rejected(config, name):
    for value in INVALID[config][name]:
        with pytest.raises(ConfigError, match="expected") as caught:
            config(**{name: value})
        assert name in str(caught.value)
        assert repr(value) in str(caught.value)


CHOICES = {"architecture": tuple(SIZES), "initializer": INITIALIZERS, "tokenizer": TOKENIZERS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES,
           "reduction": REDUCTIONS, "weights": WEIGHTS, "not_finite": NOT_FINITE, "unknown": UNKNOWN, "line_ends": LINE_ENDS}


@pytest.mark.parametrize(("config", "name"), FIELDS)
def test_every_field_is_documented(config, name):
    (field,) = (field for field in fields(config) if field.name == name)
    assert len(field.metadata["help"]) > 10
    assert field.metadata["choices"] == CHOICES.get(name)
    if field.default is None and not field.metadata["choices"]:
        assert field.metadata["type"] in ((str,) if config is CheckpointConfig or name == "max_seconds" else (int, float))
    for choice in CHOICES.get(name, ()):
        config(**{name: choice})


def test_the_documented_names_exist():
    assert set(OPTIMIZERS) == set(optimizers.pytorch.OPTIMIZERS)


@pytest.mark.parametrize(("given", "seconds"), [
    (3600, 3600), (0.5, 0.5), (1e-6, 1e-6), ("90", 90), ("90s", 90), ("1h30m", 5400), ("1h 30min", 5400), ("1.5h", 5400), ("2 Hours", 7200),
    (" 45 min ", 2700), ("1d12h", 129_600), ("1m1s", 61), (np.float32(2.5), 2.5), (np.int64(7), 7), ("1e-3s", 0.001),
])  # fmt: skip
def test_durations(given, seconds):
    limit = TrainingConfig(max_seconds=given).max_seconds
    assert limit == pytest.approx(seconds) and type(limit) is float
    assert CheckpointConfig("run.npz", checkpoint_every=given).every == limit


@every_config
def test_round_trip_through_json(config):
    given = config(**{"momentum": 0.5, "optimizer": "sgd"} if config is TrainingConfig else {})
    assert config(**json.loads(json.dumps(given.to_dict()))) == given


@every_config
def test_unknown_fields_are_named(config):
    with pytest.raises(ConfigError, match=f"{config.__name__} has no argument 'colour', expected some of .*{fields(config)[0].name}"):
        config(colour=3)


@every_config
def test_configs_are_immutable(config):
    with pytest.raises(FrozenInstanceError):
        setattr(config(), fields(config)[0].name, 1)


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), np.array(3)])
def test_numpy_scalars_become_plain_numbers(number):
    config = ModelConfig(hidden=number, dropout=np.float32(0.5), tied=np.bool_(True))
    values = config.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert (values["hidden"], values["dropout"], values["tied"]) == (3, 0.5, True)


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "sgd"])
def test_only_sgd_has_momentum(optimizer):
    config = TrainingConfig(optimizer="sgd", momentum=0.9)
    with pytest.raises(ConfigError, match=f"momentum is 0.9 with optimizer '{optimizer}'; only 'sgd' has one"):
        replace(config, optimizer=optimizer)


@pytest.mark.parametrize("unknown", ["count", "exclude"])
def test_only_penalize_has_a_penalty(unknown):
    assert UnknownConfig("penalize", 2.5).nats_per_character == 2.5
    assert UnknownConfig("penalize").nats_per_character == np.log(100)
    assert UnknownConfig(unknown).nats_per_character == 0
    with pytest.raises(ConfigError, match=f"penalty is 2.5 with unknown='{unknown}'; only unknown='penalize' has one"):
        UnknownConfig(unknown, 2.5)
