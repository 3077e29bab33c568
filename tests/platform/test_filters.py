from functools import partial

import pytest

from aligner.filters import (
    KEEP,
    blank_text,
    first_reason,
    length,
    surrogates,
    unchanged,
    whitespace_edit,
)
from aligner.records import Triple, Turn

GOOD = Triple("q", "a", "c")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (GOOD, KEEP),
        (Triple(" ", "a", "c"), "blank_question"),
        (Triple("q", "\n", "c"), "blank_answer"),
        (Triple("q", "a", ""), "blank_correction"),
    ],
)
def test_blank_texts_are_named(row: Triple, reason: str) -> None:
    assert blank_text(row) == reason


def test_the_limit_of_length_itself_is_kept() -> None:
    assert length(Triple("q" * 5, "a", "c"), max_chars=5) == KEEP
    assert length(Triple("q", "a" * 6, "c"), max_chars=5) == "long_answer"


def test_lone_surrogates_are_found_in_history_too() -> None:
    assert surrogates(GOOD) == KEEP
    assert surrogates(Triple("q", "\ud800", "c")) == "broken_unicode"
    assert surrogates(Triple("q", "a", "c", history=(Turn("user", "\udfff"),))) == "broken_unicode"


def test_the_first_filter_that_objects_gives_the_reason() -> None:
    filters = (blank_text, partial(length, max_chars=1))
    assert first_reason(GOOD, filters) == KEEP
    assert first_reason(Triple("qq", "", "c"), filters) == "blank_answer"


@pytest.mark.parametrize(
    ("answer", "correction", "reason"),
    [
        ("Same.", "Same.", KEEP),
        ("One two.", "One\ntwo. ", "whitespace_edit"),
        ("One two.", "Onetwo.", KEEP),
    ],
)
def test_an_edit_of_white_space_alone_is_noise(answer: str, correction: str, reason: str) -> None:
    assert whitespace_edit(Triple("q", answer, correction)) == reason


def test_unchanged_means_byte_for_byte() -> None:
    assert unchanged(Triple("q", "a", "a")) == "unchanged"
    assert unchanged(Triple("q", "a", "a ")) == KEEP
