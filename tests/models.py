"""Small language models that several tests share."""

from functools import cache

from numba_rnnlm import LanguageModel

LINES = "to be or not to be\nthat is the question\n"


def untrained(**options):
    return LanguageModel(**{"hidden": 12, "layers": 1, "embedding": 6, "seed": 1} | options)


def fit(model, corpus=LINES * 8, valid=None, **options):
    return model.fit(corpus, valid, **{"epochs": 2, "streams": 4, "steps": 16, "verbose": 0} | options)


@cache
def trained(tokenizer="char"):
    """A model that has learned something, but nothing by heart. It is shared: do not change it."""
    if tokenizer is None:
        model, corpus = untrained(tokenizer=None, vocabulary_size=11), [number**2 % 11 for number in range(400)]
    else:
        model, corpus = untrained(tokenizer=tokenizer), LINES * 8
    return fit(model, corpus, epochs=30, learning_rate=0.01)
