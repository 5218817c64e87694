"""A text that every CPython carries, for demonstrations: nothing is downloaded."""

from .errors import CorpusError

HELD_OUT = 0.05  # part of the text that the model never sees


def documentation() -> tuple[str, str]:
    """(training text, held-out text): Python's documentation of its language, as ``help()`` shows it, without tables.

    Some topics repeat others; each paragraph is kept once, so that nothing held out was trained on.

    Raises
    ------
    CorpusError
        If this Python was built without its documentation.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "this Python was built without its documentation (the module pydoc_data.topics), the text of the demo; "
            "use a text of your own: numba-rnnlm train FILE"
        ) from error
    lines = "\n\n".join(topics[name] for name in sorted(topics)).splitlines()
    prose = "\n".join(line.rstrip() for line in lines if not _in_table(line))
    paragraphs = filter(None, (paragraph.strip("\n") for paragraph in prose.split("\n\n")))
    text = "\n\n".join(dict.fromkeys(paragraphs)) + "\n"
    border = text.rindex("\n", 0, round(len(text) * (1 - HELD_OUT))) + 1
    return text[:border], text[border:]


def _in_table(line: str) -> bool:
    """Tables, grammars and rules: a model writes them as rows of bars and dashes, which nobody wants to read."""
    return any(mark in line for mark in ("|", "---", "===")) or 2 * line.count(" ") > len(line)
