"""Text that may come from a stranger's file, as a terminal may show it.

A terminal obeys what it is shown: an ESC in the name of a layer could clear the screen, and a character that reverses the direction of
writing could make one name look like another. So whatever is shown and may come from a file passes through here.
"""

import re

LONGEST = 1000  # characters of a message
BEGINNING = 650  # characters of a longer one that stay at its beginning; its end, which says what to do, stays too

# C0 without tab and line feed, DEL and C1; characters that change the direction of writing; halves of surrogate pairs, as which Python has
# the bytes of file names that are no text.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with escapes in place of control characters, except ``"\n"`` and ``"\t"``.

    Examples
    --------
    >>> print(printable("a\x1b[2J\u202e"))
    a\x1b[2J\u202e
    """
    return CONTROL.sub(_escape, text)


def one_line(text: str) -> str:
    r"""The same in one line: with escapes for ``"\n"`` and ``"\t"``, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def message(text: str) -> str:
    """The same for an error or a warning: in one line, and of a very long one the beginning and the end.

    Examples
    --------
    >>> print(message("a" * 5000)[640:690])
    aaaaaaaaaa ... [4,030 characters] ... aaaaaaaaaaaa
    """
    return _shortened(one_line(_shortened(text)))


def amount(count: int) -> str:
    """A number of bytes, for a sentence.

    Examples
    --------
    >>> amount(812), amount(52_345), amount(4_123_456), amount(3_210_000_000)
    ('812 bytes', '52.3 kB', '4.1 MB', '3,210.0 MB')
    """
    return f"{count} bytes" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 999_950 else f"{count / 1e6:,.1f} MB"


def clean(error: BaseException) -> BaseException:
    """An error of Python's, whose text may quote a file, as the cause of one of ours: a traceback shows both."""
    error.args = tuple(message(one) if isinstance(one, str) else _modest(one) for one in error.args)
    return error


def _modest(value: object) -> object:
    """A value, or where it takes long to show what it would be shown as, such as the number 10**4000 that is no key."""
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
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
