"""Rows in an order that no worker decides, on disk.

Rows come in whatever order workers finish, so they are dealt out to files by their ids and sorted
file by file. Since an id is a hash of the content, files are about equally long, the order is the
same in every run, and the first N rows are a random sample of all.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from numpy.typing import NDArray

from aligner_jobs.tables import SORT_KEY, WORK_SCHEMA, mark_duplicates

_ROWS_PER_DEAL: Final = 16_384
"""A table is cut into 256 parts; each must be worth its place in a file."""


@dataclass(frozen=True, slots=True)
class SortedRows:
    """Rows on disk in the order of :data:`aligner_jobs.tables.SORT_KEY`, exact duplicates dropped.

    A row that is not dropped has a number, counted from 0 in that order.
    """

    folder: Path
    files: tuple[Path, ...]
    firsts: tuple[int, ...]
    """For each file the number of its first row that is not dropped."""
    kept: int
    """Rows that are not dropped."""

    def tables(self) -> Iterator[pa.Table]:
        """All rows, dropped ones among them, file by file."""
        for path in self.files:
            with pa.memory_map(str(path)) as mapped:
                yield pa.ipc.open_file(mapped).read_all()

    def kept_tables(self) -> Iterator[pa.Table]:
        """The rows that are not dropped, file by file."""
        for table in self.tables():
            yield table.filter(pc.is_null(table["reason"]))

    def take(self, numbers: NDArray[np.int64], *, columns: list[str]) -> pa.Table:
        """The rows of these numbers, of which there is at least one and which ascend."""
        bounds = np.searchsorted(numbers, [*self.firsts, self.kept])
        parts = []
        for path, first, start, stop in zip(
            self.files, self.firsts, bounds[:-1], bounds[1:], strict=True
        ):
            if start == stop:
                continue
            with pa.memory_map(str(path)) as mapped:
                table = pa.ipc.open_file(mapped).read_all()
                places = np.flatnonzero(pc.is_null(table["reason"]).to_numpy())
                parts.append(table.select(columns).take(places[numbers[start:stop] - first]))
        return pa.concat_tables(parts)


def sort(tables: Iterable[pa.Table], folder: Path) -> SortedRows:
    """Write the rows of ``tables`` to the new ``folder``; a 256th of them is held at once."""
    folder.mkdir()
    return _each_sorted(_dealt(tables, folder / "unsorted"), folder)


def _dealt(tables: Iterable[pa.Table], folder: Path) -> list[Path]:
    """Deal rows out to files by the first two digits of their id; the files, in order."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        files: dict[str, pa.RecordBatchFileWriter] = {}
        for table in _gathered(tables, rows=_ROWS_PER_DEAL):
            digits = pc.utf8_slice_codeunits(table["row_id"], 0, 2)
            order = pc.sort_indices(digits)
            table, digits = table.take(order), digits.take(order)
            runs = pc.run_end_encode(digits.combine_chunks())
            start = 0
            for digit, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                if digit not in files:
                    file = pa.ipc.new_file(folder / f"{digit}.arrow", WORK_SCHEMA)
                    files[digit] = stack.enter_context(file)
                files[digit].write_table(table.slice(start, end - start))
                start = end
    return sorted(folder.iterdir())


def _gathered(tables: Iterable[pa.Table], *, rows: int) -> Iterator[pa.Table]:
    """``tables``, put together until they hold ``rows`` rows or more."""
    waiting, count = list[pa.Table](), 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= rows:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, count = [], 0
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _each_sorted(dealt: list[Path], folder: Path) -> SortedRows:
    kept, last_id = 0, None
    files, firsts = list[Path](), list[int]()
    for path in dealt:
        with pa.memory_map(str(path)) as mapped:
            table = pa.ipc.open_file(mapped).read_all()
            table = table.sort_by([(key, "ascending") for key in SORT_KEY])
        table = mark_duplicates(table, previous_id=last_id)
        last_id = table["row_id"][-1].as_py()
        files.append(folder / path.name)
        firsts.append(kept)
        kept += table["reason"].null_count
        with pa.ipc.new_file(files[-1], WORK_SCHEMA) as file:
            file.write_table(table.combine_chunks())
        path.unlink()
    (folder / "unsorted").rmdir()
    return SortedRows(folder, tuple(files), tuple(firsts), kept)
