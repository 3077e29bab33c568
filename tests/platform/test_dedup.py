import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner import dedup
from aligner.dedup import Pairs


def pairs(*found: tuple[int, int]) -> Pairs:
    return np.array(found, dtype=np.int64).reshape(-1, 2)


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_bands_find_what_they_promise_with_at_most_128_values(threshold: float) -> None:
    cut = dedup.banding(threshold)
    assert cut.found(threshold) >= dedup.RECALL
    assert cut.values <= 128


def test_bands_at_the_default_threshold_keep_dissimilar_rows_apart() -> None:
    cut = dedup.banding(0.8)
    assert (cut.bands, cut.values_per_band) == (18, 5)
    assert cut.found(0.3) < 0.05 < cut.found(0.6) < cut.found(0.8)


def test_rows_agree_in_a_band_exactly_if_all_its_values_agree() -> None:
    cut = dedup.Banding(bands=2, values_per_band=2)
    signatures = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [2, 1, 3, 4]], dtype=np.uint32)
    hashes = dedup.band_hashes(signatures, cut)
    assert hashes[0, 0] == hashes[1, 0] != hashes[2, 0]
    assert hashes[0, 1] == hashes[2, 1] != hashes[1, 1]


def test_candidates_are_pairs_of_later_and_earlier_row_numbers() -> None:
    hashes = np.array([7, 9, 7, 8, 9, 7], dtype=np.uint64)
    numbers = np.array([0, 2, 3, 5, 8, 9])
    assert dedup.candidates(hashes, numbers).tolist() == [[3, 0], [8, 2], [9, 0], [9, 3]]


def test_a_band_that_all_rows_share_gives_few_pairs_a_row() -> None:
    found = dedup.candidates(np.zeros(10_000, dtype=np.uint64), np.arange(10_000))
    assert len(found) < 4 * 10_000
    # Each row is paired with the first.
    assert np.count_nonzero(found[:, 1] == 0) == 9_999


@given(st.lists(st.integers(0, 4), max_size=40))
def test_groups_of_up_to_five_rows_are_paired_completely(values: list[int]) -> None:
    found = dedup.candidates(np.array(values, dtype=np.uint64), np.arange(len(values)))
    for later, earlier in itertools.product(range(len(values)), repeat=2):
        if earlier < later and values[earlier] == values[later] and values.count(values[later]) < 6:
            assert [later, earlier] in found.tolist()
    assert all(earlier < later and values[earlier] == values[later] for later, earlier in found)


def test_pairs_are_united_and_taken_away() -> None:
    known = dedup.unique_pairs([pairs((5, 1), (2, 0)), pairs((5, 1))])
    assert known.tolist() == [[2, 0], [5, 1]]
    assert dedup.without_pairs(pairs((2, 0), (5, 2)), known).tolist() == [[5, 2]]
    assert dedup.unique_pairs([]).shape == (0, 2)


def test_a_row_falls_if_it_is_similar_to_an_earlier_row_that_stays() -> None:
    similar = pairs((1, 0), (2, 1), (3, 0), (3, 2))
    # 2 resembles 1 alone, which fell.
    assert dedup.fallen(similar, rows=5).tolist() == [False, True, False, True, False]


def test_similarity_is_shared_over_all() -> None:
    assert dedup.jaccard({1, 2, 3, 4}, {2, 3, 4, 5}) == 3 / 5
    assert dedup.jaccard(set(), set()) == 1.0
    assert dedup.jaccard({1}, set()) == 0.0


def test_shingles_are_of_question_and_answer_whatever_their_case() -> None:
    one, other, third = dedup.shingles(
        [("One two", "three four"), ("one TWO three", "Four!"), ("x", "")], size=3
    ).sets()
    assert one == other
    assert len(one) == 2
    assert len(third) == 1
