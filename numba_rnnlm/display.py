"""Makes text from untrusted files safe to print on a terminal.

A terminal interprets control characters: an ESC in the name of a layer could clear the screen, and a character that reverses the writing
direction could make one name look like another. All text that is shown and may come from a file passes through this module.
"""

import re

LONGEST = 1000  # characters of a message
BEGINNING = 650  # characters kept from the beginning of a longer message; the rest is its end, which says what to do

# C0 except tab and line feed, DEL and C1; characters that change the writing direction; lone surrogates, by which Python represents
# undecodable bytes in file names.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape the control characters of a text, except ``"\n"`` and ``"\t"``.

    Examples
    --------
    >>> print(printable("a\x1b[2J\u202e"))
    a\x1b[2J\u202e
    """
    return CONTROL.sub(_escape, text)


def one_line(text: str) -> str:
    r"""Like :func:`printable`, but escape ``"\n"`` and ``"\t"`` too, so that the text is one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def message(text: str) -> str:
    """Prepare an error or a warning for display: one line, of which only the beginning and the end are kept if it is very long.

    Examples
    --------
    >>> print(message("a" * 5000)[640:690])
    aaaaaaaaaa ... [4,030 characters] ... aaaaaaaaaaaa
    """
    return _shortened(one_line(_shortened(text)))


def amount(count: int) -> str:
    """Format a number of bytes for use in a sentence.

    Examples
    --------
    >>> amount(812), amount(52_345), amount(4_123_456), amount(3_210_000_000)
    ('812 bytes', '52.3 kB', '4.1 MB', '3,210.0 MB')
    """
    return f"{count} bytes" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 999_950 else f"{count / 1e6:,.1f} MB"


def clean(error: BaseException) -> BaseException:
    """Clean the text of an exception, which may quote a file, so that it can be the ``__cause__`` of ours: a traceback shows both."""
    error.args = tuple(message(one) if isinstance(one, str) else _modest(one) for one in error.args)
    return error


def _modest(value: object) -> object:
    """A value, or a shortened text in its place if its ``repr`` is long or not printable."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python converts
        return f"a number of type {type(value).__name__}"
    return value if len(text) <= LONGEST and text == one_line(text) else message(text)


def _escape(found: re.Match[str]) -> str:
    point = ord(found[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    gap = f" ... [{len(text) - LONGEST + 30:,} characters] ... "
    return text[:BEGINNING] + gap + text[BEGINNING + len(gap) - LONGEST :]
