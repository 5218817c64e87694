"""Logs training: appends a row for each report to a file, as a CSV table or as JSON lines."""

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
SAME = ("updates", "epoch", "loss")  # rows that agree in these columns are the same report
LONGEST_LINE = 2**16  # bytes
LONGEST_NUMBER = 30  # characters
NUMBER = re.compile(r"\d+")


class Log:
    r"""Appends reports to a file; a report that cannot be written is dropped with a warning, and training continues.

    Parameters
    ----------
    path
        The file: a table if it ends in ``.csv``, otherwise JSON lines. Rows are appended to an existing log.
    resumed
        The training continues from a checkpoint, so reports that it repeats are not written twice.

    Raises
    ------
    ConfigError
        The file exists and is not a log.
    ModelFileError
        The file is a pipe or a device, cannot be read, or (raised by :meth:`begin`) cannot be written.

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
        except (FileNotFoundError, NotADirectoryError):  # writing will create the file, or report why it cannot
            pass
        except OSError as error:
            raise ModelFileError(f"cannot read the log {path!r}: {error.strerror}.") from error

    def begin(self) -> None:
        """Check before training that the file can be written."""
        try:
            self._append("")
        except OSError as error:
            raise ModelFileError(f"cannot write the log {self.path!r}: {error.strerror}. Choose a folder that "
                                 "exists and is writable.") from error

    def write(self, row: Row) -> None:
        """Append a report, with the time of day."""
        values = {name: _plain(row.get(name)) for name in FIELDS[1:]}
        if _report(values) in self.written:
            return
        line = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), **values}
        try:
            self._append(_csv(line.values()) if self.table else json.dumps(line) + "\n")
        except OSError as error:
            warn(f"a report could not be written to the log {self.path!r}, training continues: {error.strerror}.")

    def _append(self, line: str) -> None:
        """Append a line completely or not at all. The file is opened for each line, so that it may be moved or truncated during training."""
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
            raise ConfigError(f"log is {self.path!r}, but this file exists and is not a training log, so nothing is appended to it; give "
                              "another name.")
        file.seek(0)

    def _rows(self, file: BinaryIO) -> Iterator[Mapping[str, Any]]:
        """The reports in the file. Lines that are not reports, such as a truncated one, are skipped."""
        while line := file.readline(LONGEST_LINE):
            if b"," in line:
                yield _columns(line) if self.table else _parsed(line)


def _plain(value: float | None) -> float | None:
    """Convert a number for JSON: whole numbers to int, NaN and infinity to None."""
    if value is None or not isfinite(value):
        return None
    return int(value) if value == int(value) else value


def _csv(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _columns(line: bytes) -> dict[str, str]:
    """Parse a row of a table; empty if the line is not one."""
    try:
        return dict(zip(FIELDS, next(csv.reader([line.decode("utf-8", "replace")]), ()), strict=False))
    except csv.Error:
        return {}


def _parsed(line: bytes | str) -> dict[str, Any]:
    """Parse a JSON object; empty if the line is not one, for example because it was truncated."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _report(row: Mapping[str, Any]) -> str:
    """A key that identifies a report; empty if the row is not a report."""
    values = ["" if row.get(name) is None else str(row.get(name)) for name in SAME]
    return ",".join(values) if NUMBER.fullmatch(values[0]) and all(len(value) <= LONGEST_NUMBER for value in values) else ""
