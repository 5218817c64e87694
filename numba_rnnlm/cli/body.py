"""Reads the layers of ``train --body FILE.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, shown
from ..layers import LAYERS, Layer
from ..layers.description import descriptions, rebuild
from ..suggestions import value_meant

LARGEST = 1 << 20  # bytes
EXAMPLE = '[{"class": "LSTM", "units": 64, "return_sequences": true}]'


def read_body(path: Path) -> list[Layer]:
    """The layers in this file: a JSON list of objects, each with the name of a class of :mod:`numba_rnnlm.layers` and its arguments.

    Raises
    ------
    ConfigError
        The file is something else, or an argument is invalid.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"--body {str(path)!r} cannot be read: {error.strerror or error}.") from error
    try:
        found = json.loads(content) if len(content) <= LARGEST else None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--body {str(path)!r} is not JSON ({error}), expected a list of layers such as {EXAMPLE}.") from None
    if not isinstance(found, list) or not found or not all(isinstance(layer, dict) for layer in found):
        raise ConfigError(f"--body {str(path)!r} is not a list of layers, expected one such as {EXAMPLE}.")
    for told in descriptions(found):
        _expect_class(str(path), told)
    try:
        return [rebuild(layer, LAYERS, {}) for layer in found]
    except ConfigError as error:
        raise ConfigError(f"--body {str(path)!r}: {error}") from error


def _expect_class(file: str, told: Mapping[str, Any]) -> None:
    name = told.get("class", told.get("cell"))
    if isinstance(name, str) and (name in LAYERS or [*told] == ["cell"]):
        return
    listed = ", ".join(LAYERS)
    meant = value_meant(name, LAYERS) if isinstance(name, str) else ""
    what = f"the class {shown(name)}" if "class" in told else f"a layer without a class, {shown(dict(told))}"
    raise ConfigError(f"--body {file!r} has {what}" + (f"; did you mean {meant!r}?" if meant else f", expected one of {listed}."))
