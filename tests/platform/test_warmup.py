import pytest

from aligner.records import Triple
from aligner.warmup import identity_row, warmup_rows

ROWS = [Triple(f"q{i}", f"a{i}", f"c{i}") for i in range(100)]


def test_an_identity_row_learns_to_return_the_answer() -> None:
    row = identity_row(ROWS[0])
    assert row.is_identity
    assert row.question == "q0"


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.02, 2), (0.2, 20), (0.5, 50)])
def test_the_share_is_exact(share: float, count: int) -> None:
    assert len(warmup_rows(ROWS, share=share)) == count


def test_a_smaller_share_lies_within_a_larger_one() -> None:
    small, large = warmup_rows(ROWS, share=0.1), warmup_rows(ROWS, share=0.3)
    assert set(small) < set(large)


def test_the_choice_does_not_depend_on_the_order_of_rows() -> None:
    assert set(warmup_rows(ROWS, share=0.2)) == set(warmup_rows(ROWS[::-1], share=0.2))
