"""Changes to the JSON header of a model."""

import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import damage
from .archives import Member, npy

Random = random.Random

ODD = ("\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\u202egnp.exe\u202c", "\u2066\u2067", "\u2028", "\r", "\b\b\b", "\x7f", "\ud800", "\0", "\u200b",
       "\ufeff", "\x85", "\x0e", "\u061c", "\n", "\t")  # fmt: skip
NUMBERS = (-1, 0, 1, 2, 3, 10, 1000, 2**31, 2**53, 10**18, 2**63 - 1, 2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**400, -0.5, 0.5, 1.5, 1e-320, 1e308,
           float("nan"), float("inf"))  # fmt: skip
VALUES = (
    *NUMBERS, None, True, False, "", "x", "x" * 9999, "\ud800", "a\0b", "lstm", "gru", "byte", "Dense", "adam", "good", "123", "Half", "own",
    [], {}, [[]], [None], [0.5], {"x": 1}, [1] * 1000, ["1", "2"], "deep",
)  # fmt: skip
POINTED: tuple[tuple[tuple[str, ...], Any], ...] = (  # keys of a value, and a similar but wrong value
    (("version",), True), (("version",), 1), (("version",), 1.0), (("history", "loss"), "1"), (("history", "epoch"), ["1"]), (("updates",), 10**400),
    (("updates",), 2**63), (("run", "model"), "good"), (("run",), {"model": "good"}), (("seed",), 2**63), (("features",), 2**62),
    (("tokenizer", "name"), "word"), (("tokenizer", "name"), "byte"), (("config", "tokenizer"), "word"), (("config", "tokenizer"), None),
    (("config", "vocabulary_size"), 1000), (("run", "position", "updates"), 2**53), (("run", "position", "ended"), ODD[0]), (("kind",), "sequential"),
    (("tokenizer", "line_ends"), "keep"), (("config", "layers"), 1000), (("compiled", "optimizer", "own"), True), (("run", "rounding"), ODD[1]),
    (("rounding",), ODD[1]), (("config", "min_count"), 2**70), (("config", "hidden"), 2**40), (("run", "config", "epochs"), 10**30),
)  # fmt: skip


def header_of(members: list[Member]) -> Any:
    """The parsed header."""
    return json.loads(np.load(io.BytesIO(members[0].data)).tobytes())


def with_header(text: bytes) -> Member:
    return Member(b"about.npy", npy("|u1", f"({len(text)},)", text))


def spoil_header(random: Random, members: list[Member], others: list[list[Member]]) -> None:
    """Change, remove or enlarge something in the header, make it contradictory, or add control characters."""
    about = header_of(members)
    change = random.choice((exchange_values, exchange_values, exchange_values, put_odd_letters, put_pointed, enlarge, mix))
    if change is mix:
        mix(random, about, members, others)
    else:
        change(random, about)
    text = json.dumps(about, ensure_ascii=random.random() < 0.8).replace('"deep"', _deep(random)).encode("utf-8", "surrogatepass")
    if random.random() < 0.1:
        text = random.choice(TEXTS)(random, text)
    members[0] = with_header(text)


def exchange_values(random: Random, about: Any) -> None:
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        places = list(_places(about))
        if not places:
            break
        inside, key = random.choice(places)
        action = random.choice(("change", "change", "change", "copy", "remove", "add"))
        if action == "change":
            inside[key] = _value(random)
        elif action == "copy":
            other, place = random.choice(places)
            inside[key] = copy.deepcopy(other[place])
        elif action == "remove":
            del inside[key]
        elif isinstance(inside, dict):
            inside[random.choice(("", "x", "backend", "resume", "weights", f"{key} "))] = _value(random)
        else:
            inside.append(_value(random))


def put_odd_letters(random: Random, about: Any) -> None:
    """Add control characters to keys or to string values."""
    part = random.choice((0.02, 0.2, 1.0))
    kinds = random.choice(("keys", "values", "both"))
    for inside, key in list(_places(about)):
        value, odd = inside[key], random.choice(ODD)
        if isinstance(value, str) and kinds != "keys" and random.random() < part:
            inside[key] = random.choice((odd, value + odd, odd + value)) if len(value) != 1 else random.choice(odd)
        if isinstance(inside, dict) and kinds != "values" and random.random() < part:
            inside[random.choice((key + odd, odd + key))] = inside[key] if random.random() < 0.5 else inside.pop(key)
        elif random.random() < part / 20:
            inside[key] = odd


def put_pointed(random: Random, about: Any) -> None:
    for _ in range(random.choice((1, 1, 2))):
        where, value = random.choice(POINTED)
        inside = about
        for key in where[:-1]:
            inside = inside.get(key) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside[where[-1]] = copy.deepcopy(value)


def enlarge(random: Random, about: Any) -> None:
    """Give something very many parts, so that the header takes up to 1 MB."""
    size = round(10 ** random.uniform(2, 6))
    if random.random() < 0.4:
        inside, key = about, random.choice(("layers", "history", "tokenizer", "metrics", "position"))
    else:
        inside, key = random.choice(list(_places(about)))
    value = inside.get(key) if isinstance(inside, dict) else inside[key]
    if key == "layers" and isinstance(value, list) and value:
        more = random.choice(({"class": "Dropout", "rate": 0.0}, value[0], value[-1], value[len(value) // 2]))
        value[1:1] = [more] * (size // 1000)
    elif key == "history" and isinstance(value, dict):
        for column in value:
            value[column] = (value[column] or [1]) * (size // 100)
    elif key == "tokenizer" and isinstance(value, dict) and "symbols" in value:
        value["symbols"] += [chr(0x4E00 + number) if value["name"] == "char" else f"w{number}" for number in range(size // 20)]
    elif isinstance(inside, (dict, list)) and (not isinstance(inside, dict) or key in inside):
        inside[key] = random.choice(LARGE)(size)


LARGE: tuple[Callable[[int], Any], ...] = (
    lambda size: "x" * size, lambda size: "\x1b" * (size // 6), lambda size: "x" * (size - 1) + "\U0001f600", lambda size: [[]] * (size // 4),
    lambda size: [0] * (size // 3), lambda size: [{"": 0}] * (size // 8), lambda size: {str(number): 0 for number in range(size // 12)},
    lambda size: 10 ** min(size, 4000), lambda size: ["x" * 100] * (size // 100),
)  # fmt: skip


def mix(random: Random, about: Any, members: list[Member], others: list[list[Member]]) -> None:
    """Replace parts of the header, or all arrays, by those of another file."""
    other = random.choice(others)
    found = header_of(other)
    keys = list(dict.fromkeys([*about, *found]))
    for key in random.sample(keys, random.randint(1, min(3, len(keys)))):
        if key in found:
            about[key] = found[key]
        else:
            about.pop(key, None)
    if random.random() < 0.2:
        members[1:] = other[1:]


def _double_key(random: Random, text: bytes) -> bytes:
    """Duplicate a key of the header with another value."""
    places = [place for place in range(len(text)) if text.startswith((b'{"', b', "'), place)] if len(text) < 10_000 else [0]
    place = random.choice(places)
    end = text.find(b'": ', place)
    if end < 0:
        return text
    key = text[place:end].lstrip(b"{, ")
    value = json.dumps(_value(random)).encode()
    return text[: place + 1] + key + b'": ' + value + b", " + text[place + 1 :].lstrip()


TEXTS: tuple[Callable[[Random, bytes], bytes], ...] = (  # changes to the text of the header
    damage.spoil, _double_key, _double_key, lambda random, text: b"\xef\xbb\xbf" + text, lambda random, text: text.decode("utf-8", "replace").encode("utf-16"),
    lambda random, text: text + random.choice((b"\0", b" " * 100_000, b"{}", b"//", b",")), lambda random, text: b"[" + text + b"]",
    lambda random, text: text.replace(b"1", random.choice((b"1e400", b"-Infinity", b"NaN", b"01", b"1_0", b"9" * 5000, b"-0"))),
)  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _value(random: Random) -> Any:
    return copy.deepcopy(random.choice(VALUES))


def _deep(random: Random) -> str:
    depth = random.choice((3, 100, random.randint(700, 1000), 100_000))
    return "[" * depth + "]" * depth
