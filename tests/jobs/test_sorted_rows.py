import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aligner.records import Triple
from aligner_jobs import sorted_rows
from aligner_jobs.sorted_rows import SortedRows
from aligner_jobs.tables import WORK_SCHEMA, Row, drop, tables_of, triple_row


def some_rows() -> list[Row]:
    """2,000 rows, every fifth dropped before, and ten of the others twice."""
    rows = [triple_row(Triple(f"q{i}", "a", "c"), where=f"f:{i}") for i in range(2000)]
    rows = [
        drop(row, step="filters", reason="noise") if number % 5 == 0 else row
        for number, row in enumerate(rows)
    ]
    return rows + [{**row, "where": "again"} for row in rows[1:50:5]]


@pytest.fixture
def rows(tmp_path: Path) -> SortedRows:
    shuffled = some_rows()
    random.Random(0).shuffle(shuffled)
    return sorted_rows.sort(tables_of(shuffled, size=99), tmp_path / "sorted")


def test_rows_are_sorted_by_id_over_all_files(rows: SortedRows) -> None:
    table = pa.concat_tables(rows.tables())
    assert table.schema.equals(WORK_SCHEMA)
    ids = table["row_id"].to_pylist()
    assert ids == sorted(ids)
    assert len(ids) == 2010
    assert len(rows.files) == 256


def test_only_the_first_of_equal_rows_is_numbered(rows: SortedRows) -> None:
    kept = pa.concat_tables(rows.kept_tables())
    assert kept.num_rows == rows.kept == 1600
    assert len(set(kept["row_id"].to_pylist())) == 1600
    # Of two equal rows the one whose place sorts first stays.
    assert kept["where"].to_pylist().count("again") == 10


def test_rows_are_taken_by_their_numbers(rows: SortedRows) -> None:
    kept = pa.concat_tables(rows.kept_tables())
    numbers = np.array([0, 1, 7, 799, 1598, 1599])
    found = rows.take(numbers, columns=["row_id", "question"])
    assert found.equals(kept.take(numbers).select(["row_id", "question"]))


def test_nothing_but_the_sorted_files_is_left(rows: SortedRows) -> None:
    assert set(rows.folder.iterdir()) == set(rows.files)
    assert rows.firsts[0] == 0
    assert list(rows.firsts) == sorted(rows.firsts)


def test_no_rows_make_no_files(tmp_path: Path) -> None:
    empty = sorted_rows.sort([], tmp_path / "sorted")
    assert (empty.files, empty.kept, list(empty.tables())) == ((), 0, [])
