from functools import partial

import pytest

from aligner.filters import (
    KEEP,
    blank_text,
    echo,
    edit_size,
    first_reason,
    language,
    length,
    length_ratio,
    refused,
    refused_answer,
    surrogates,
    template_leak,
    unchanged,
    whitespace_edit,
)
from aligner.prompt import BUILT_IN
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


@pytest.mark.parametrize(
    ("answer", "correction", "reason"),
    [
        ("The river is wide.", "Buy more cheese now!", "dissimilar"),
        ("It is red.", "It is blue.", KEEP),
        ("It is red and wide and deep.", "It is red and wide and deep!", "barely_edited"),
        ("It is red.", "It is red.", KEEP),
    ],
)
def test_an_edit_is_neither_another_answer_nor_next_to_nothing(
    answer: str, correction: str, reason: str
) -> None:
    row = Triple("q", answer, correction)
    assert edit_size(row, min_similarity=0.2, max_similarity=0.85) == reason
    assert edit_size(row) == KEEP


@pytest.mark.parametrize(
    ("characters", "reason"), [(4, "shrunk"), (5, KEEP), (20, KEEP), (21, "grown")]
)
def test_a_correction_is_about_as_long_as_its_answer(characters: int, reason: str) -> None:
    row = Triple("q", "a" * 10, "c" * characters)
    assert length_ratio(row, smallest=0.5, largest=2.0) == reason
    assert length_ratio(row, smallest=0.0, largest=None) == KEEP


REFUSAL = "I'm sorry, but I can't help with that."


@pytest.mark.parametrize(
    ("answer", "correction", "reason", "reason_of_answer"),
    [
        ("Sure.", REFUSAL, "refusal_correction", KEEP),
        (REFUSAL, "Sure.", KEEP, "refusal_answer"),
        (REFUSAL, f"{REFUSAL} Call somebody.", KEEP, "refusal_answer"),
    ],
)
def test_only_a_new_refusal_is_the_correction_s_own(
    answer: str, correction: str, reason: str, reason_of_answer: str
) -> None:
    row = Triple("q", answer, correction)
    assert (refused(row), refused_answer(row)) == (reason, reason_of_answer)


@pytest.mark.parametrize(
    ("question", "answer", "correction", "reason"),
    [
        ("Who built the old town hall?", "Me.", "Who built the old town hall? Ann did.", "echo"),
        ("Who is it?", "Me.", "who is it", "echo"),
        ("Who is it?", "Me.", "Who is it? Ann.", KEEP),
        ("Who built the old town hall?", "Who built the old town hall? Me.", "Ann.", KEEP),
        ("Say this after me: one", "Say this after me: one", "Say this after me: one", KEEP),
        ("?", "Me.", "...", KEEP),
    ],
)
def test_a_correction_does_not_begin_by_repeating_the_question(
    question: str, answer: str, correction: str, reason: str
) -> None:
    assert echo(Triple(question, answer, correction)) == reason


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_prompt_given_back_whole_is_a_leak(name: str) -> None:
    prompt = BUILT_IN[name].render("q", "a")
    assert template_leak(Triple("q", "a", prompt)) == "template_leak"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Triple("q", "a", "c<|im_end|>"), "template_leak"),
        (Triple("q", "a", "##Correction: c"), "template_leak"),
        (Triple("q", "[INST] a", "[INST] c"), KEEP),
        (Triple("What is <|im_end|>?", "a", "<|im_end|> ends a message."), KEEP),
        (Triple("q", "a", "USER: hello ASSISTANT: hi"), KEEP),
    ],
)
def test_marks_that_were_there_before_did_not_leak(row: Triple, reason: str) -> None:
    assert template_leak(row) == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Triple("hello", "hello", "hallo"), "language_correction"),
        (Triple("hallo", "hallo", "hallo"), "language_question"),
        (Triple("hi", "hi", "ha"), KEEP),
        (Triple("hello", "hello", "hello"), KEEP),
    ],
)
def test_each_text_of_some_length_is_in_an_allowed_language(row: Triple, reason: str) -> None:
    def detect(text: str) -> str:
        return "en" if "e" in text else "de"

    assert language(row, detect=detect, allowed=frozenset({"en"}), min_chars=5) == reason
