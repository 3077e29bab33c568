import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.decontamination import index
from aligner.records import Question, Turn

LONG = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether?"
)
SHORT = "How do I kill a Python process?"
TINY = "What is love?"

EXAM = index(
    {
        "math": [Question(LONG)],
        "safety": [Question(SHORT), Question("What is the boiling point of sulphur hexafluoride?")],
        "chat": [
            Question(TINY),
            Question("Why?", (Turn("user", "Is glass a liquid?"), Turn("assistant", "No."))),
        ],
    },
    ngram_words=13,
)


def leak(question: str, *history: Turn) -> str | None:
    (found,) = EXAM.leaks([Question(question, history)])
    return found


@pytest.mark.parametrize(
    ("question", "name"),
    [
        (LONG, "math"),
        (LONG.upper().replace(",", " --"), "math"),
        (f"Solve this. {LONG} Think step by step.", "math"),
        # Thirteen words in common, and twelve.
        ("natalia sold clips to 48 of her friends in april and then she", "math"),
        ("natalia sold clips to 48 of her friends in april and then", None),
        (SHORT, "safety"),
        (f"Hi! {SHORT.lower()} Thanks.", "safety"),
        # A shorter question has to stand there whole.
        ("How do I kill a Python?", None),
        ("Tell me the boiling point of sulphur hexafluoride?", None),
        ("What is the boiling point of sulphur dioxide?", None),
        (TINY, "chat"),
        ("what is LOVE", "chat"),
        ("What is love in the time of cholera?", None),
        ("Why?", None),
        ("???", None),
    ],
)
def test_a_question_is_leaked_as_its_length_says(question: str, name: str | None) -> None:
    assert leak(question) == name


def test_earlier_turns_of_the_user_leak_as_well_and_those_of_the_assistant_do_not() -> None:
    assert leak("And in June?", Turn("user", LONG), Turn("assistant", "72.")) == "math"
    assert leak("And hate?", Turn("user", TINY), Turn("assistant", "...")) == "chat"
    assert leak("Really?", Turn("user", "Tell me a story"), Turn("assistant", LONG)) is None


def test_a_short_question_in_a_conversation_counts_with_what_came_before_it() -> None:
    assert leak("Why?", Turn("user", "Is glass a liquid?"), Turn("assistant", "Nope")) == "chat"
    assert leak("Why?", Turn("user", "Is ice a liquid?"), Turn("assistant", "No.")) is None


def test_the_first_set_is_named_where_several_hold_a_question() -> None:
    both = index({"b": [Question(LONG)], "a": [Question(LONG)]}, ngram_words=13)
    assert both.leaks([Question(LONG), Question("x")]) == ["b", None]


def test_an_index_may_be_empty_and_questions_may_be_none() -> None:
    empty = index({"none": []}, ngram_words=13)
    assert empty.leaks([Question(LONG), Question("")]) == [None, None]
    assert EXAM.leaks([]) == []


def test_a_template_alone_leaks_nothing() -> None:
    exam = index(
        {"e": [Question(f"what is the colour of object {i}?") for i in range(500)]}, ngram_words=13
    )
    asked = [Question(f"what is the colour of a thing called {i}?") for i in range(600)]
    assert set(exam.leaks(asked)) == {None}
    assert exam.leaks([Question("what is the colour of object 77?")]) == ["e"]


WORD = st.sampled_from([f"w{number}" for number in range(60)])


@given(st.lists(WORD, min_size=1, max_size=30), st.lists(WORD, max_size=5), st.integers(0, 99))
def test_a_planted_question_never_passes(words: list[str], around: list[str], seed: int) -> None:
    """As it is, and from six words on also within other text."""
    shuffled = random.Random(seed).sample(around, len(around))
    exam = index({"e": [Question(" ".join(words))]}, ngram_words=13)
    assert exam.leaks([Question("  ".join(words).title())]) == ["e"]
    if len(words) >= 6:
        inside = " ".join([*around, *words, *shuffled])
        assert exam.leaks([Question("x"), Question(inside)]) == [None, "e"]
