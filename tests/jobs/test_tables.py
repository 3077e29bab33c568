from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligner.records import TRIPLE_SCHEMA, Question, Triple, Turn
from aligner_jobs.tables import (
    WORK_SCHEMA,
    PartWriter,
    Row,
    Tally,
    as_triple,
    bad_row,
    drop,
    history_of,
    mark_duplicates,
    on_rows,
    question_row,
    tables_of,
    triple_row,
)

TRIPLE = Triple("q", "a", "c", upstream="u", source="s", history=(Turn("user", "before"),))


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=WORK_SCHEMA)


def kept(name: str) -> Row:
    return triple_row(Triple(name, "a", "c", upstream="u", source="s"), where=name)


def test_a_triple_survives_the_table() -> None:
    (row,) = table(triple_row(TRIPLE, where="f:1")).to_pylist()
    assert as_triple(row) == TRIPLE
    assert history_of(row) == TRIPLE.history


def test_a_question_waits_for_its_answer_and_stands_for_several_rows() -> None:
    row = question_row(Question("q", TRIPLE.history), source="s", where="f:1", rows=6)
    assert (row["answer"], row["correction"], row["rows"]) == (None, None, 6)
    assert row["question_id"] == TRIPLE.question_id


def test_a_dropped_row_keeps_its_place_and_loses_its_texts() -> None:
    row = drop(triple_row(TRIPLE, where="f:1"), step="filters", reason="noise")
    assert (row["step"], row["reason"], row["where"]) == ("filters", "noise", "f:1")
    assert (row["answer"], row["correction"]) == (None, None)


def test_stages_leave_dropped_rows_alone() -> None:
    rows = table(kept("x"), drop(kept("y"), step="filters", reason="noise"))
    changed = on_rows(rows, lambda row: {**row, "answer": "new"})
    assert changed["answer"].to_pylist() == ["new", None]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_rows_are_dealt_into_tables_of_a_size(size: int) -> None:
    tables = list(tables_of((kept(str(i)) for i in range(7)), size=size))
    assert sum(part.num_rows for part in tables) == 7
    assert max(part.num_rows for part in tables) == min(size, 7)


def test_duplicates_are_found_across_the_border_of_two_tables() -> None:
    row_id = kept("x")["row_id"]
    first = mark_duplicates(table(kept("x"), kept("x")), previous_id=None)
    assert first["reason"].to_pylist() == [None, "duplicate"]
    second = mark_duplicates(table(kept("x"), kept("y")), previous_id=row_id)
    assert second["reason"].to_pylist() == ["duplicate", None]
    assert second.schema == WORK_SCHEMA


def test_dropped_rows_are_nobodys_duplicates() -> None:
    dropped = drop(kept("x"), step="filters", reason="noise")
    marked = mark_duplicates(table(dropped, dropped), previous_id=None)
    assert marked["reason"].to_pylist() == ["noise", "noise"]


def test_the_funnel_counts_rows_to_be_and_chains() -> None:
    tally = Tally()
    answered = {**kept("x"), "upstream": "v"}
    tally.add(
        table(
            bad_row(source="s", where="f:1", reason="broken_json", rows=6),
            drop({**kept("y"), "rows": 2}, step="answers", reason="timeout"),
            drop(kept("z"), step="filters", reason="noise"),
            kept("w"),
            answered,
        )
    )
    tally.add(table(answered))
    steps = tally.funnel(["read", "answers", "filters"])
    assert [(step.rows_in, step.rows_out) for step in steps] == [(12, 6), (6, 4), (4, 3)]
    assert steps[0].dropped == {"broken_json": 6}
    assert tally.dropped("answers", upstream="u") == {"timeout": 2}
    assert tally.dropped("answers", upstream="v") == {}
    assert tally.reached("answers", upstream="u") == 4
    assert tally.reached("answers", upstream="v") == 2
    assert tally.total("s") == 12


def test_parts_are_cut_by_rows_and_their_bytes_do_not_depend_on_batches(tmp_path: Path) -> None:
    rows = [kept(str(i)) for i in range(10)]
    contents = []
    for name, size in (("one", 10), ("many", 3)):
        writer = PartWriter(tmp_path / name, TRIPLE_SCHEMA, rows_per_file=4)
        for part in tables_of(rows, size=size):
            writer.write(part)
        contents.append([path.read_bytes() for path in writer.close()])
        assert writer.rows == 10
    assert [len(content) for content in contents] == [3, 3]
    assert contents[0] == contents[1]


def test_an_empty_split_is_a_file_without_rows(tmp_path: Path) -> None:
    (path,) = PartWriter(tmp_path / "empty", TRIPLE_SCHEMA).close()
    assert pq.read_table(path).schema == TRIPLE_SCHEMA
