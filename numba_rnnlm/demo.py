"""The text of the demo: documentation bundled with CPython, so that nothing needs to be downloaded."""

from .errors import CorpusError

HELD_OUT = 0.05  # fraction of the text that the model never sees


def documentation() -> tuple[str, str]:
    """Return (training text, held-out text): the language documentation that ``help()`` shows, without tables.

    Some topics repeat others. Each paragraph appears once, so that no held-out paragraph is trained on.

    Raises
    ------
    CorpusError
        This Python was built without its documentation.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "the demo needs the module pydoc_data.topics, but this Python was built without its documentation; "
            "train on your own text instead: numba-rnnlm train FILE"
        ) from error
    lines = "\n\n".join(topics[name] for name in sorted(topics)).splitlines()
    prose = "\n".join(line.rstrip() for line in lines if not _in_table(line))
    paragraphs = filter(None, (paragraph.strip("\n") for paragraph in prose.split("\n\n")))
    text = "\n\n".join(dict.fromkeys(paragraphs)) + "\n"
    border = text.rindex("\n", 0, round(len(text) * (1 - HELD_OUT))) + 1
    return text[:border], text[border:]


def _in_table(line: str) -> bool:
    """Whether a line belongs to a table or a grammar, from which a model would learn to generate bars and dashes."""
    return any(mark in line for mark in ("|", "---", "===")) or 2 * line.count(" ") > len(line)
