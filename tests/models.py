"""Small language models that several tests share."""

import re
from functools import cache

from numba_rnnlm import LanguageModel

WHITE_SPACE = " \t\n\v\f\r"  # ASCII
LINES = "to be or not to be\nthat is the question\n"


def untrained(**options):
    return LanguageModel(**{"hidden": 12, "layers": 1, "embedding": 6, "seed": 1} | options)


def fit(model, corpus=LINES * 8, valid=None, **options):
    return model.fit(corpus, valid, **{"epochs": 2, "streams": 4, "steps": 16, "verbose": 0} | options)


@cache
def trained(tokenizer="char"):
    """A model trained a little, not enough to memorise its text. Tests share it: do not change it."""
    if tokenizer is None:
        model, corpus = untrained(tokenizer=None, vocabulary_size=11), [number**2 % 11 for number in range(400)]
    else:
        model, corpus = untrained(tokenizer=tokenizer), LINES * 8
    _shared[tokenizer] = fit(model, corpus, epochs=30, learning_rate=0.01), contents(model)
    return model


_shared = {}


def contents(model):
    """Everything that makes up a model, to compare with ``==``."""
    weights = {name: array.tobytes() for name, array in model.network_.weights().items()}
    return weights, repr((model.get_params(), model.history_, model.tokenizer_ and model.tokenizer_.to_dict()))


def changed():
    """The arguments of ``trained`` whose models some test has changed."""
    return [tokenizer for tokenizer, (model, before) in _shared.items() if contents(model) != before]


def words_of(text):
    """The words of a text, split at white space."""
    return re.findall(f"[^{WHITE_SPACE}]+", text)


def as_read(text, tokenizer):
    """A text as a tokenizer reads it by default: without byte order marks and, except for bytes, with "\\n" as the only newline."""
    mark, ends, end = (b"(^|[\r\n])(?:\xef\xbb\xbf)+", b"\r\n?", b"\n") if isinstance(text, bytes) else ("(^|[\r\n])\ufeff+", "\r\n?", "\n")
    text = re.sub(mark, rb"\1" if isinstance(text, bytes) else r"\1", text)
    return text if tokenizer == "byte" else re.sub(ends, end, text)
