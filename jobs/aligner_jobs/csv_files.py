"""Rows out of a CSV file, one by one: a line of column names, then one row per record.

No file is ever held whole. A row that is broken, or has more or fewer fields than there are
columns, is one bad row; reading goes on at the next line.
"""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO, Final

from aligner.errors import DataError
from aligner_jobs.raw_rows import BadRow, Record

_MAX_FIELD_CHARS: Final = 1 << 24
"""A quote that is never closed would take the rest of the file for one field."""


def read_rows(stream: BinaryIO, path: str, *, delimiter: str = ",") -> Iterator[Record | BadRow]:
    """All rows of the file ``path``, in order, every value a text; blank lines do not count.

    Raises:
        DataError: The line of column names is missing, broken, or names one twice.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    # Bytes that are no UTF-8 become lone surrogates, and their rows are set aside for these.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns = _columns(reader, path)
    line = reader.line_num + 1
    while True:
        where = f"{path}:{line}"
        try:
            fields = next(reader, None)
        except csv.Error:
            fields = []
            yield BadRow(where, "broken_csv")
        if fields is None:
            return
        line = reader.line_num + 1
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
