from hypothesis import given
from hypothesis import strategies as st

from aligner.metrics import copy_stats, similarity


@given(st.text(), st.text())
def test_similarity_is_a_share(first: str, second: str) -> None:
    assert 0.0 <= similarity(first, second) <= 1.0
    assert similarity(first, first) == 1.0


def test_copy_stats_count_exact_copies_apart_from_similar_ones() -> None:
    stats = copy_stats([("One two.", "One two."), ("One two.", "One three."), ("a", "b")])
    assert stats.rows == 3
    assert stats.copy_rate == 1 / 3
    assert similarity("One two.", "One three.") == 2 / 3
    assert abs(stats.similarity - (1 + 2 / 3 + 0) / 3) < 1e-12


def test_no_rows_give_zero_not_an_error() -> None:
    assert copy_stats([]).copy_rate == 0.0
