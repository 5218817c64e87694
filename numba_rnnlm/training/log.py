"""The log of a training: a row for each report, appended to a file as a table or as JSON lines."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from math import isfinite
from typing import Any, BinaryIO

from ..errors import ConfigError, ModelFileError
from ..paths import is_empty, regular
from ..reports import warn
from .history import COLUMNS, Row

FIELDS = ("time", "updates", *COLUMNS)
SAME = ("updates", "epoch", "loss")  # two rows with the same numbers here are one report
LONGEST_LINE = 2**16  # bytes
LONGEST_NUMBER = 30  # characters
NUMBER = re.compile(r"\d+")


class Log:
    r"""Appends reports to a file; a report that cannot be written is lost with a warning, and the training continues.

    Parameters
    ----------
    path
        A table if it ends in ``.csv``, else JSON lines. Whatever log is in the file stays: rows are appended.
    resumed
        The training continues from a checkpoint: what it repeats after that is not written twice.

    Raises
    ------
    ConfigError
        If the file exists and is something else.
    ModelFileError
        If it is a pipe or a device, or cannot be read, or (by :meth:`begin`) not be written.

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "log.csv")
    >>> log = Log(path)
    >>> log.begin()
    >>> log.write({"epoch": 1.0, "updates": 14.0, "loss": 2.5})
    >>> [line.split(",")[1:4] for line in open(path)]
    [['updates', 'epoch', 'loss'], ['14', '1', '2.5']]
    """

    def __init__(self, path: str, resumed: bool = False) -> None:
        self.path, self.table = path, path.lower().endswith(".csv")
        self.written: set[str] = set()
        try:
            with open(path, "rb", opener=regular) as file:
                self._expect_log(file)
                if resumed:
                    self.written = {report for row in self._rows(file) if (report := _report(row))}
        except (FileNotFoundError, NotADirectoryError):  # writing creates it, or reports why not
            pass
        except OSError as error:
            raise ModelFileError(f"cannot read the log {path!r}: {error.strerror}.") from error

    def begin(self) -> None:
        """Make sure, before the training, that the file can be written."""
        try:
            self._append("")
        except OSError as error:
            raise ModelFileError(f"cannot write the log {self.path!r}: {error.strerror}. Choose a folder that "
                                 "exists and can be written.") from error

    def write(self, row: Row) -> None:
        """Append a report, with the time of day."""
        values = {name: _plain(row.get(name)) for name in FIELDS[1:]}
        if _report(values) in self.written:
            return
        line = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), **values}
        try:
            self._append(_csv(line.values()) if self.table else json.dumps(line) + "\n")
        except OSError as error:
            warn(f"a report is missing in the log {self.path!r}, training continues: {error.strerror}.")

    def _append(self, line: str) -> None:
        """In one piece or not at all. The file is opened for each line, so it may be moved away or cut while the training runs."""
        with open(self.path, "ab", buffering=0, opener=regular) as file:
            size = file.seek(0, os.SEEK_END)
            data = ((_csv(FIELDS) if self.table and not size else "") + line).encode()
            try:
                if data and file.write(data) != len(data):
                    raise OSError(0, "the disk is full")
            except OSError:
                file.truncate(size)
                raise

    def _expect_log(self, file: BinaryIO) -> None:
        first = file.readline(LONGEST_LINE).decode("utf-8", "replace")
        known = first == _csv(FIELDS) if self.table else set(FIELDS) <= _parsed(first).keys()
        if not known and not is_empty(file.fileno()):
            raise ConfigError(f"log is {self.path!r}, a file that exists and is not a log of trainings; nothing is appended to it. Give "
                              "the log a name of its own.")
        file.seek(0)

    def _rows(self, file: BinaryIO) -> Iterator[Mapping[str, Any]]:
        """The reports in the file, without lines that are none, as one that was cut off."""
        while line := file.readline(LONGEST_LINE):
            if b"," in line:
                yield _columns(line) if self.table else _parsed(line)


def _plain(value: float | None) -> float | None:
    """A number for JSON: whole ones without a point, None for NaN and infinity."""
    if value is None or not isfinite(value):
        return None
    return int(value) if value == int(value) else value


def _csv(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _columns(line: bytes) -> dict[str, str]:
    """A row of a table; empty if the line is none."""
    try:
        return dict(zip(FIELDS, next(csv.reader([line.decode("utf-8", "replace")]), ()), strict=False))
    except csv.Error:
        return {}


def _parsed(line: bytes | str) -> dict[str, Any]:
    """An object of JSON lines; empty if the line is none, as one that was cut off."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _report(row: Mapping[str, Any]) -> str:
    """What tells one report from another; empty if the row is none."""
    values = ["" if row.get(name) is None else str(row.get(name)) for name in SAME]
    return ",".join(values) if NUMBER.fullmatch(values[0]) and all(len(value) <= LONGEST_NUMBER for value in values) else ""
