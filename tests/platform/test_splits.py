from hypothesis import given
from hypothesis import strategies as st

from aligner.splits import split_of, unit_hash


@given(st.text())
def test_a_question_keeps_its_split(key: str) -> None:
    assert split_of(key, heldout_share=0.1) == split_of(key, heldout_share=0.1)


@given(st.text())
def test_a_larger_heldout_share_only_adds_questions(key: str) -> None:
    if split_of(key, heldout_share=0.1) == "heldout":
        assert split_of(key, heldout_share=0.2) == "heldout"


def test_the_share_is_about_what_was_asked_for() -> None:
    heldout = sum(split_of(str(i), heldout_share=0.1) == "heldout" for i in range(10_000))
    assert 900 < heldout < 1_100


def test_other_salts_are_independent() -> None:
    both = sum(
        unit_hash(str(i), salt="a") < 0.5 and unit_hash(str(i), salt="b") < 0.5
        for i in range(10_000)
    )
    assert 2_300 < both < 2_700
