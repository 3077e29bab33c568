import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aligner.records import Question, Turn
from aligner.teaching import (
    CRITIQUE,
    INSTRUCTION,
    KEEP,
    Principles,
    correction_after_critique,
    correction_messages,
    critique_messages,
    is_chatty,
    read_reply,
)

PRINCIPLES = Principles(helpful=("Do it.",), harmless=("Hurt nobody.",), honest=("Be true.",))
QUESTION = Question("And now?", (Turn("user", "Hi."), Turn("assistant", "Hello.")))


def test_the_request_follows_the_conversation_and_holds_every_principle() -> None:
    *conversation, request = correction_messages(QUESTION, "Wait.", PRINCIPLES)
    assert [message["content"] for message in conversation] == [
        "Hi.",
        "Hello.",
        "And now?",
        "Wait.",
    ]
    assert [message["role"] for message in conversation] == ["user", "assistant"] * 2
    assert request["role"] == "user"
    for part in ("Helpful:\n- Do it.", "Harmless:\n- Hurt", "Honest:\n- Be true", INSTRUCTION):
        assert part in request["content"]


@given(st.text(), st.text(), st.text())
def test_nothing_inside_a_row_changes_what_is_asked(past: str, asked: str, answer: str) -> None:
    question = Question(asked, (Turn("user", past), Turn("assistant", past)))
    messages = correction_messages(question, answer, PRINCIPLES)
    assert [message["content"] for message in messages[:-1]] == [past, past, asked, answer]
    assert messages[-1] == correction_messages(QUESTION, "Wait.", PRINCIPLES)[-1]


def test_after_a_critique_the_principles_are_not_said_twice() -> None:
    first = critique_messages(QUESTION, "Wait.", PRINCIPLES)
    assert first[-1]["content"].endswith(CRITIQUE)
    messages = correction_after_critique(first, "Too short.")
    assert messages[: len(first)] == first
    assert messages[len(first) :] == [
        {"role": "assistant", "content": "Too short."},
        {"role": "user", "content": INSTRUCTION},
    ]


def test_every_group_of_principles_has_one_at_least() -> None:
    with pytest.raises(ValidationError):
        Principles(helpful=("Do it.",), harmless=(), honest=("Be true.",))


@pytest.mark.parametrize("reply", [KEEP, f"{KEEP}\n", f"  {KEEP} "])
def test_the_marker_alone_is_the_answer_byte_for_byte(reply: str) -> None:
    answer = " Odd  spacing,\r\nkept. "
    assert read_reply(reply, answer=answer).correction == answer


@pytest.mark.parametrize("reply", [f"{KEEP} It is fine.", f"All right: {KEEP}", KEEP * 2])
def test_a_marker_among_other_text_may_mean_anything(reply: str) -> None:
    reading = read_reply(reply, answer="a")
    assert (reading.correction, reading.reason) == (None, "ambiguous_keep")


def test_a_correction_is_taken_as_it_is() -> None:
    assert read_reply(" It is blue.\n", answer="It is red.").correction == " It is blue.\n"


@pytest.mark.parametrize(
    "reply",
    [
        "Here is the corrected answer:\n\nIt is blue.",
        "Sure! Here's my revised version of the answer:\n\nIt is blue.",
        "Certainly, here is an improved response: It is blue.",
        "I have corrected my answer as follows:\nIt is blue.",
        "Corrected answer: It is blue.",
        "**Revised answer:** It is blue.",
        "##Correction: It is blue.",
        "[[It is blue.]]",
        "```\nIt is blue.\n```",
        '"It is blue."',
        "“It is blue.”",
        "It is blue.\n\n(Note: I corrected the colour.)",
        "It is blue.\n\nI have removed the insult.",
    ],
)
def test_talk_about_a_correction_is_no_correction(reply: str) -> None:
    assert read_reply(reply, answer="It is red.").reason == "chatty"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ('"Yes" and "no" are words.', "Words."),
        ('He said "yes"', "He said no."),
        ("```\nx = 2\n```", "```\nx = 1\n```"),
        ('"Blue."', '"Red."'),
        ("Here is the list: red, blue.", "Red."),
        ("The corrected proof: assume x.", "Assume y."),
        ("Changes: none.", "Changes: many."),
        ("It is blue. I have removed nothing.", "It is red."),
    ],
)
def test_what_only_looks_like_talk_is_kept(reply: str, answer: str) -> None:
    assert read_reply(reply, answer=answer).correction == reply


def test_a_long_reply_is_read_at_once() -> None:
    assert not is_chatty("\n" * 1_000_000 + "x" * 1_000_000, answer="a")
    assert not is_chatty(" i'" * 700_000, answer="a" * 1_000_000)


@pytest.mark.parametrize(
    ("file", "chatty"),
    [
        # Each begins "Here is a revised ...:".
        ("selfee_revisions", 7),
        ("cai_revisions", 0),
        ("shepherd_critiques", 0),
        ("aligner2b_corrections", 0),
    ],
)
def test_real_corrections_are_hardly_ever_taken_for_talk(
    shared_data: Path, file: str, chatty: int
) -> None:
    with gzip.open(shared_data / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert sum(is_chatty(row["correction"], answer=row["answer"]) for row in rows) == chatty
