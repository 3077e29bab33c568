"""Rows out of a Parquet file, a few at a time."""

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from aligner_jobs.raw_rows import BadRow, Record

_ROWS_PER_BATCH: Final = 128
"""Some rows hold a long conversation or a page of text."""

_BUFFER_BYTES: Final = 1 << 20
"""Of one column. Without it a column of a whole row group would be read at once."""


def read_rows(filesystem: pafs.FileSystem, inner: str, path: str) -> Iterator[Record | BadRow]:
    """All rows of the file ``inner`` on ``filesystem``, in order; people call it ``path``.

    Raises:
        OSError, pa.ArrowInvalid: It cannot be read.
    """
    number = 0
    with filesystem.open_input_file(inner) as raw:
        file = pq.ParquetFile(raw, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        for batch in file.iter_batches(_ROWS_PER_BATCH):
            for value in _values(batch):
                number += 1
                where = f"{path}, row {number}"
                yield BadRow(where, value) if isinstance(value, str) else Record(where, value)


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Each row, or the reason why Python cannot have it."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for at in range(batch.num_rows):
            yield _value(batch.slice(at, 1))


def _value(batch: pa.RecordBatch) -> dict[str, Any] | str:
    try:
        (row,) = batch.to_pylist()
    except UnicodeDecodeError:
        return "broken_unicode"
    except (ValueError, OverflowError):
        return "unreadable_value"
    return dict(row)
