"""Against all pairs, compared one by one: what a search by bands misses and what it finds."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aligner import dedup
from aligner.records import Triple
from aligner_jobs import near_duplicates, runtime, sorted_rows
from aligner_jobs.config.quality import NearDuplicates
from aligner_jobs.dataset_files import write
from aligner_jobs.sorted_rows import SortedRows
from aligner_jobs.stages import sketch
from aligner_jobs.tables import WORK_SCHEMA, Row, drop, tables_of, triple_row
from aligner_jobs.terminal import quiet_ray_data

CONFIG = NearDuplicates()
SETTINGS = CONFIG.model_dump(mode="json")
VOCABULARY = [f"word{number}" for number in range(4000)]


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    quiet_ray_data()
    with runtime.ray_session():
        yield


def text(rng: random.Random, words: int) -> list[str]:
    return rng.choices(VOCABULARY, k=words)


def at_similarity(rng: random.Random, words: list[str], similarity: float) -> list[str]:
    """``words`` with as much replaced at their end as brings their shingles to ``similarity``."""
    shingles = len(words) - 2
    # Of s shingles k are others: (s - k) / (s + k).
    changed = int(shingles * (1 - similarity) / (1 + similarity))
    return [*words[: len(words) - changed], *text(rng, changed)]


def as_rows(answers: list[list[str]]) -> list[Row]:
    rows = []
    for number, answer in enumerate(answers):
        row = triple_row(Triple("", " ".join(answer), "c", source="s"), where=f"f:{number}")
        rows.append({**row, "question": "q"})
    return rows


def sketched(rows: list[Row]) -> list[pa.Table]:
    return [sketch(table, config=SETTINGS) for table in tables_of(rows, size=500)]


def found(answers: list[list[str]], folder: Path) -> tuple[set[int], SortedRows]:
    """Places in ``answers`` of the rows that fall."""
    rows = sorted_rows.sort(sketched(as_rows(answers)), folder / "sorted")
    falls = near_duplicates.find(rows, config=CONFIG)
    numbers = pa.concat_tables(rows.kept_tables())["where"].to_pylist()
    wheres = [int(where.removeprefix("f:")) for where in numbers]
    return {wheres[place] for place in np.flatnonzero(falls)}, rows


def test_planted_pairs_are_found_and_unrelated_rows_stay(tmp_path: Path) -> None:
    rng = random.Random(0)
    originals = [text(rng, rng.randint(40, 120)) for _ in range(1000)]
    copies = [at_similarity(rng, words, 0.8) for words in originals]
    unrelated = [text(rng, rng.randint(5, 120)) for _ in range(4000)]
    answers = [*originals, *copies, *unrelated]
    fell, _ = found(answers, tmp_path)
    pairs = [fell & {number, number + 1000} for number in range(1000)]
    assert sum(map(bool, pairs)) >= 0.98 * 1000
    assert all(len(pair) < 2 for pair in pairs)
    assert len({number for number in fell if number >= 2000}) <= 0.001 * 4000
    # What the bands promise is more than what is demanded.
    assert sum(map(bool, pairs)) >= 0.995 * 1000


def test_pairs_just_below_the_threshold_stay(tmp_path: Path) -> None:
    rng = random.Random(1)
    originals = [text(rng, 100) for _ in range(300)]
    fell, _ = found([*originals, *(at_similarity(rng, row, 0.77) for row in originals)], tmp_path)
    assert not fell


def test_with_boilerplate_everywhere_the_same_rows_fall_as_among_all_pairs(tmp_path: Path) -> None:
    rng = random.Random(2)
    boilerplate = text(rng, 40)
    answers = []
    for _ in range(150):
        base = text(rng, 40)
        for _ in range(4):
            changed = [rng.choice(VOCABULARY) if rng.random() < 0.03 else word for word in base]
            answers.append([*boilerplate, *changed])
    fell, rows = found(answers, tmp_path)
    table = pa.concat_tables(rows.kept_tables())
    texts = list(zip(table["question"].to_pylist(), table["answer"].to_pylist(), strict=True))
    sets = dedup.shingles(texts, size=CONFIG.shingle_words).sets()
    similar = [
        (later, earlier)
        for later in range(len(sets))
        for earlier in range(later)
        if dedup.jaccard(sets[later], sets[earlier]) >= CONFIG.threshold
    ]
    expected = dedup.fallen(np.array(similar), rows=len(sets))
    assert len(fell) == expected.sum() > 200


def test_every_row_that_falls_resembles_one_that_stays(tmp_path: Path) -> None:
    rng = random.Random(3)
    base = text(rng, 100)
    # A long chain: each resembles its neighbours alone.
    chain = [base]
    for _ in range(40):
        words = list(chain[-1])
        for place in rng.sample(range(100), 3):
            words[place] = rng.choice(VOCABULARY)
        chain.append(words)
    fell, _ = found(chain, tmp_path)
    texts = [("q", " ".join(words)) for words in chain]
    sets = dedup.shingles(texts, size=CONFIG.shingle_words).sets()
    stay = set(range(len(chain))) - fell
    for number in fell:
        assert max(dedup.jaccard(sets[number], sets[other]) for other in stay) >= CONFIG.threshold
    for number in stay:
        others = [dedup.jaccard(sets[number], sets[other]) for other in stay - {number}]
        assert max(others) < CONFIG.threshold


def test_rows_dropped_before_are_neither_sketched_nor_compared(tmp_path: Path) -> None:
    words = text(random.Random(4), 50)
    kept, lost = as_rows([words, words])
    rows = [kept, drop(lost, step="filters", reason="noise")]
    (table,) = sketched(rows)
    assert table.schema.equals(WORK_SCHEMA)
    assert [value is None for value in table["sketch"].to_pylist()] == [False, True]
    folder = sorted_rows.sort([table], tmp_path / "sorted")
    assert near_duplicates.find(folder, config=CONFIG).tolist() == [False]


def test_near_duplicates_are_set_aside_and_no_working_file_is_left(tmp_path: Path) -> None:
    rng = random.Random(5)
    words = text(rng, 60)
    tally, counts = write(
        sketched(as_rows([words, at_similarity(rng, words, 0.9), text(rng, 60)])),
        tmp_path,
        heldout_share=0.0,
        warmup_share=0.0,
        find_near=lambda rows: near_duplicates.find(rows, config=CONFIG),
    )
    assert tally.dropped("duplicates") == {"near_duplicate": 1}
    assert counts == {"train": 2, "heldout": 0, "warmup": 0, "set_aside": 1}
    assert {path.name for path in tmp_path.iterdir()} == set(counts)


def test_no_rows_have_no_duplicates(tmp_path: Path) -> None:
    rows = sorted_rows.sort([], tmp_path / "sorted")
    assert near_duplicates.find(rows, config=CONFIG).size == 0
