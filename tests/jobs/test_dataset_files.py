import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligner.records import TRIPLE_SCHEMA, Triple
from aligner.splits import split_of
from aligner_jobs.dataset_files import write
from aligner_jobs.tables import Row, Tally, drop, tables_of, triple_row


def some_rows() -> list[Row]:
    """300 rows of 100 questions, the same 20 twice (from two upstreams), and 10 dropped ones."""
    triples = [Triple(f"q{i % 100}", f"a{i}", f"c{i}", upstream="u") for i in range(300)]
    again = [Triple(row.question, row.answer, row.correction, upstream="v") for row in triples[:20]]
    rows = [triple_row(row, where=f"f:{i}") for i, row in enumerate([*triples, *again])]
    lost = [triple_row(Triple(f"q{i}", "x", "y"), where=f"g:{i}") for i in range(10)]
    return rows + [drop(row, step="filters", reason="noise") for row in lost]


def build(rows: list[Row], folder: Path, *, size: int = 50) -> tuple[Tally, dict[str, int]]:
    folder.mkdir()
    return write(tables_of(rows, size=size), folder, heldout_share=0.2, warmup_share=0.2)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    table: pa.Table = pq.read_table(folder / name)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_every_row_ends_in_one_folder_and_counts_agree(tmp_path: Path) -> None:
    tally, counts = build(some_rows(), tmp_path / "d")
    found = {name: len(read(tmp_path / "d", name)) for name in counts}
    assert found == counts
    assert counts["train"] + counts["heldout"] == 300
    assert counts["set_aside"] == 30
    assert tally.dropped("duplicates") == {"duplicate": 20}
    assert {path.name for path in (tmp_path / "d").iterdir()} == set(counts)


def test_questions_are_split_by_content(tmp_path: Path) -> None:
    build(some_rows(), tmp_path / "d")
    for split in ("train", "heldout"):
        rows = read(tmp_path / "d", split)
        assert {split_of(row["question_id"], heldout_share=0.2) for row in rows} == {split}
        assert [row["row_id"] for row in rows] == sorted(row["row_id"] for row in rows)


def test_warm_up_rows_are_a_share_of_training_and_return_the_answer(tmp_path: Path) -> None:
    _, counts = build(some_rows(), tmp_path / "d")
    warmup = read(tmp_path / "d", "warmup")
    assert len(warmup) == round(0.2 * counts["train"])
    assert all(row["correction"] == row["answer"] for row in warmup)
    trained = {(row["question"], row["answer"]) for row in read(tmp_path / "d", "train")}
    assert {(row["question"], row["answer"]) for row in warmup} <= trained


def test_what_is_set_aside_says_where_and_why_and_holds_no_text(tmp_path: Path) -> None:
    build(some_rows(), tmp_path / "d")
    rows = read(tmp_path / "d", "set_aside")
    assert {(row["step"], row["reason"]) for row in rows} == {
        ("filters", "noise"),
        ("duplicates", "duplicate"),
    }
    # Of two equal rows the one of the first upstream stays.
    assert {row["upstream"] for row in rows if row["reason"] == "duplicate"} == {"v"}
    assert not {"question", "answer", "correction"} & set(rows[0])


def test_bytes_do_not_depend_on_the_order_in_which_rows_arrive(tmp_path: Path) -> None:
    rows = some_rows()
    build(rows, tmp_path / "one")
    random.Random(0).shuffle(rows)
    build(rows, tmp_path / "two", size=7)
    for path in (tmp_path / "one").rglob("*.parquet"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()


def test_no_rows_at_all_still_make_four_folders(tmp_path: Path) -> None:
    _, counts = build([], tmp_path / "d")
    assert set(counts.values()) == {0}
    assert pq.read_table(tmp_path / "d" / "train").schema == TRIPLE_SCHEMA


def of_two_sources() -> list[Row]:
    """100 rows of one source and 300 of another."""
    triples = [Triple(f"q{i}", "a", "c", source="s" if i % 4 == 0 else "long") for i in range(400)]
    return [triple_row(row, where=f"f:{i}") for i, row in enumerate(triples)]


def test_a_mix_keeps_as_many_rows_as_the_scarcest_source_permits(tmp_path: Path) -> None:
    tally, counts = write(
        tables_of(of_two_sources(), size=64),
        tmp_path,
        heldout_share=0.1,
        warmup_share=0.0,
        mix={"long": 1.0, "s": 2.0},
    )
    kept = read(tmp_path, "train") + read(tmp_path, "heldout")
    assert Counter(row["source"] for row in kept) == {"s": 100, "long": 50}
    assert tally.dropped("mix") == {"over_share": 250}
    assert counts["set_aside"] == 250


def test_a_mix_of_fewer_rows_is_part_of_a_mix_of_more(tmp_path: Path) -> None:
    kept = []
    for number, share in enumerate((1.0, 2.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = tables_of(of_two_sources(), size=64)
        write(rows, folder, heldout_share=0.0, warmup_share=0.0, mix={"s": 1.0, "long": share})
        kept.append({row["row_id"] for row in read(folder, "train")})
    assert kept[0] < kept[1]


def test_a_near_duplicate_counts_before_the_mix_and_is_shown_with_its_fate(tmp_path: Path) -> None:
    shown: list[pa.Table] = []
    tally, _ = write(
        tables_of(of_two_sources(), size=64),
        tmp_path,
        heldout_share=0.0,
        warmup_share=0.5,
        mix={"s": 1.0, "long": 3.0},
        find_near=lambda rows: np.arange(rows.kept) % 2 == 0,
        look=shown.append,
    )
    assert tally.dropped("duplicates") == {"near_duplicate": 200}
    reasons: Counter[str | None] = Counter(pa.concat_tables(shown)["reason"].to_pylist())
    assert reasons["near_duplicate"] == 200
    assert reasons["over_share"] == sum(tally.dropped("mix").values()) < 200
    assert reasons[None] == len(read(tmp_path, "train"))
    trained = {row["row_id"] for row in read(tmp_path, "train")}
    # Identity rows are made of rows that stayed.
    identity = [Triple(row["question"], row["answer"], "c") for row in read(tmp_path, "warmup")]
    assert {row.row_id for row in identity} <= trained
