from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aligner.records import Triple
from aligner_jobs import dataset_files
from aligner_jobs.dataset_profile import LENGTH_EDGES, SAMPLE_ROWS, TEXTS, Profile
from aligner_jobs.tables import Row, drop, tables_of, triple_row


def profile_of(rows: list[Row], folder: Path) -> Profile:
    folder.mkdir()
    profile = Profile()
    dataset_files.write(
        tables_of(rows, size=100), folder, heldout_share=0.1, warmup_share=0.2, look=profile.look
    )
    return profile


def some_rows(count: int) -> list[Row]:
    """A third of them copies; ``v`` answered every fourth; and one row that was dropped."""
    triples = [
        Triple(f"q{n}", f"one two {n}", f"one two {n if n % 3 else -n - 1}", upstream="uuuv"[n % 4])
        for n in range(count)
    ]
    rows = [triple_row(row, where=f"f:{n}") for n, row in enumerate(triples)]
    lost = triple_row(Triple("q", "a", "c", upstream="w"), where="g:0")
    return [*rows, drop(lost, step="filters", reason="noise")]


def test_rows_and_copies_are_counted_for_each_upstream(tmp_path: Path) -> None:
    profile = profile_of(some_rows(120), tmp_path / "d")
    assert profile.rows == {"u": 90, "v": 30}
    assert profile.copied == {"u": 60, "v": 20}
    assert profile.copy_rate == pytest.approx(2 / 3)


def test_every_length_falls_into_one_bin(tmp_path: Path) -> None:
    texts = ["", "x", "x" * 1000, "x" * 10_000_000]
    rows = [triple_row(Triple("é", text, "c"), where=f"f:{n}") for n, text in enumerate(texts)]
    profile = profile_of(rows, tmp_path / "d")
    assert {name: int(profile.lengths[name].sum()) for name in TEXTS} == dict.fromkeys(TEXTS, 4)
    assert profile.lengths["answer"][0] == 2
    assert profile.lengths["answer"][-1] == 1
    (place,) = np.flatnonzero(profile.lengths["answer"][1:-1]) + 1
    assert LENGTH_EDGES[place] <= 1000 < LENGTH_EDGES[place + 1]


def test_the_sample_is_the_same_whatever_the_order_and_spares_what_is_too_long(
    tmp_path: Path,
) -> None:
    rows = some_rows(SAMPLE_ROWS + 500)
    long = triple_row(Triple("long", "x" * 30_000, "c"), where="h:0")
    first = profile_of([*rows, long], tmp_path / "one")
    second = profile_of([long, *reversed(rows)], tmp_path / "two")
    assert len(first.sample) == SAMPLE_ROWS
    assert first.sample == second.sample
    assert all(len(row.answer) < 100 for row in first.sample)
    copies = [one for one in first.compared() if one.similarity == 1.0]
    assert len(copies) / SAMPLE_ROWS == pytest.approx(2 / 3, abs=0.05)


def test_a_sample_is_random_although_it_is_the_first_rows(tmp_path: Path) -> None:
    profile = profile_of(some_rows(4 * SAMPLE_ROWS), tmp_path / "d")
    share = sum(row.upstream == "v" for row in profile.sample) / SAMPLE_ROWS
    assert share == pytest.approx(0.25, abs=0.05)


def test_no_rows_are_no_trouble(tmp_path: Path) -> None:
    profile = profile_of([], tmp_path / "d")
    profile.look(pa.Table.from_pylist([], schema=next(tables_of(some_rows(1), size=9)).schema))
    assert (profile.copy_rate, profile.compared()) == (0.0, [])
