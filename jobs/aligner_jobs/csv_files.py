"""Rows out of a CSV file, one by one: a line of column names, then one row per record.

No file is ever held whole. A row that is broken, or has more or fewer fields than there are
columns, is one bad row; reading goes on at the line below the one where it began, so a quote that
is never closed does not take the rows behind it along.
"""

import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, Final, Self

from aligner.errors import DataError
from aligner_jobs.raw_rows import BadRow, Record

_MAX_FIELD_CHARS: Final = 1 << 23
"""Where the search for a closing quote ends."""


def read_rows(stream: BinaryIO, path: str, *, delimiter: str = ",") -> Iterator[Record | BadRow]:
    """All rows of the file ``path``, in order, every value a text; blank lines do not count.

    Raises:
        DataError: The line of column names is missing, broken, or names one twice.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    # Bytes that are no UTF-8 become lone surrogates, and their rows are set aside for these.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns = _columns(reader, path)
    while True:
        where = f"{path}:{lines.begin()}"
        try:
            fields = next(reader, None)
        except csv.Error:
            lines.back()
            yield BadRow(where, "broken_csv")
            continue
        if fields is None:
            return
        if fields and len(fields) != len(columns):
            yield BadRow(where, "ragged_row")
        elif fields:
            yield Record(where, dict(zip(columns, fields, strict=True)))


def _columns(reader: Iterator[list[str]], path: str) -> list[str]:
    try:
        columns = next((fields for fields in reader if fields), [])
    except csv.Error:
        raise DataError(f"{path}: its line of column names is broken CSV; fix it.") from None
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: names a column twice; give each a name of its own.")
    return columns


class _Lines:
    """The lines of a text, of which those of the latest row can be read again."""

    def __init__(self, text: Iterator[str]) -> None:
        self._text = text
        self._again = deque[str]()
        self._taken: list[str] = []
        self._passed = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._text)
        self._taken.append(line)
        return line

    def begin(self) -> int:
        """The next line begins a row; its number."""
        self._passed += len(self._taken)
        self._taken.clear()
        return self._passed + 1

    def back(self) -> None:
        """Go back to the second line of the row."""
        self._again.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]
