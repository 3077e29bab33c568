"""A dataset artefact's Parquet files, row group by row group: what a task reads at a time."""

import heapq
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from aligner import artefacts
from aligner.errors import DataError
from aligner.records import Triple, from_columns
from aligner.splits import unit_hash


@dataclass(frozen=True, slots=True)
class Piece:
    """One row group of one file."""

    uri: str
    """Of the file; a task on another machine can read it."""
    group: int
    rows: int

    def read(self) -> pa.Table:
        """The rows.

        Raises:
            DataError: The file cannot be read.
        """
        filesystem, path = artefacts.resolve(self.uri)
        with _named(self.uri), _open(filesystem, path) as file:
            return file.read_row_group(self.group)


def pieces(dataset: str, folder: str) -> list[Piece]:
    """Of ``<dataset>/<folder>``, in order; none where there is no such folder.

    Raises:
        DataError: A file is no Parquet file.
    """
    filesystem, root = artefacts.resolve(f"{dataset}/{folder}")
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    found = [info.path for info in filesystem.get_file_info(selector)]
    made = []
    for path in sorted(path for path in found if path.endswith(".parquet")):
        uri = f"{dataset}/{folder}{path.removeprefix(root)}"
        with _named(uri), _open(filesystem, path) as file:
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        made += [Piece(uri, number, rows) for number, rows in enumerate(groups)]
    return made


def triples(piece: Piece) -> Iterator[Triple]:
    """The rows of a piece.

    Raises:
        DataError: The file cannot be read, or a row breaks the schema.
    """
    for number, record in enumerate(piece.read().to_pylist()):
        try:
            yield from_columns(record)
        except DataError as exc:
            raise DataError(
                f"{piece.uri}: row {number} of group {piece.group}: {exc}; build it again."
            ) from None


def read_rows(dataset: str, split: str) -> Iterator[Triple]:
    """Rows of ``train``, ``warmup`` or ``heldout``, one after the other."""
    for piece in pieces(dataset, split):
        yield from triples(piece)


def sample(rows: Iterable[Triple], size: int) -> list[Triple]:
    """``size`` of ``rows`` by content hash: the same rows whatever their order."""
    return heapq.nsmallest(size, rows, key=lambda row: unit_hash(row.row_id, salt="sample"))


def _open(filesystem: pafs.FileSystem, path: str) -> pq.ParquetFile:
    return pq.ParquetFile(path, filesystem=filesystem)


@contextmanager
def _named(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid):
        raise DataError(f"{uri}: cannot be read as Parquet; build the dataset again.") from None
