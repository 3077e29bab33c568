from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.records import Question, Turn
from aligner_jobs.config.sources import Messages
from aligner_jobs.conversations import pair, questions, read_turns
from aligner_jobs.raw_rows import RowProblem


def said(*turns: str) -> list[dict[str, str]]:
    """Messages of ShareGPT from ``human: text``."""
    parts = [turn.partition(": ") for turn in turns]
    return [{"from": who, "value": text} for who, _, text in parts]


def reason(*messages: object, **names: Any) -> str:
    with pytest.raises(RowProblem) as caught:
        list(questions(read_turns(messages, Messages(**names))))
    return str(caught.value)


def test_instructions_are_folded_into_what_the_user_says_first() -> None:
    messages = said("system: Be brief.", "human: Why?", "gpt: So.")
    assert read_turns(messages, Messages(system_turns="fold")) == (
        Turn("user", "Be brief.\n\nWhy?"),
        Turn("assistant", "So."),
    )
    blank = said("system:  ", "human: Why?")
    assert read_turns(blank, Messages(system_turns="fold")) == (Turn("user", "Why?"),)


@pytest.mark.parametrize(
    ("messages", "name"),
    [
        (said("system: x", "human: q"), "system_turn"),
        (said("human: q", "system: x"), "system_turn"),
        (said("tool: x"), "unknown_role"),
        (said("gpt: x", "human: q"), "not_user_first"),
        (said("human: q", "human: q"), "role_repeated"),
        (said("human:  ", "gpt: a", "human: q"), "empty_turn"),
        (said("human: q", "gpt: a", "human:  "), "empty_question"),
        ([], "no_question"),
        (["x"], "not_messages"),
        ([None], "not_messages"),
        ([{"from": "human"}], "not_text"),
        ([{"from": ["human"], "value": "x"}], "unknown_role"),
        ([{"from": "human", "value": "\ud800"}], "broken_unicode"),
    ],
)
def test_what_is_no_conversation_has_a_name(messages: list[object], name: str) -> None:
    assert reason(*messages) == name


@pytest.mark.parametrize(
    ("names", "name"),
    [({}, "system_turn"), ({"system_turns": "fold"}, "no_question")],
)
def test_instructions_alone_are_no_conversation(names: dict[str, Any], name: str) -> None:
    assert reason(*said("system: x"), **names) == name


def test_the_reply_to_the_last_question_is_left_to_others() -> None:
    turns = read_turns(said("human: q", "gpt: a"), Messages())
    assert list(questions(turns)) == [(1, Question("q"))]


def test_two_replies_to_nothing_are_no_pair() -> None:
    with pytest.raises(RowProblem, match="not_user_first"):
        pair([Turn("assistant", "a")], [Turn("assistant", "b")], source="s")
    with pytest.raises(RowProblem, match="no_reply"):
        pair([], [], source="s")


messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "from": st.sampled_from(["human", "gpt", "system", "tool"]) | st.none(),
            "value": st.text(st.characters()) | st.integers(),
        },
    )
    | st.none()
)


@given(messages, st.sampled_from(["fold", "set_aside"]))
def test_any_messages_are_questions_or_a_named_reason(messages: list[Any], system: Any) -> None:
    try:
        asked = list(questions(read_turns(messages, Messages(system_turns=system))))
    except RowProblem as problem:
        assert str(problem).isidentifier()
        return
    assert asked
    assert all(question.question.strip() for _, question in asked)
