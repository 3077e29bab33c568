import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.records import Triple, Turn
from aligner_jobs import conversations as talks
from aligner_jobs.raw_rows import RowProblem
from aligner_jobs.transcripts import parse

MARKS = {"user": "Human", "assistant": "Assistant"}
words = st.text(st.characters(codec="utf-8")).map(str.strip).filter(bool)
unmarked = words.filter(lambda text: "Human:" not in text and "Assistant:" not in text)


def pair(chosen: str, rejected: str) -> Triple:
    return talks.pair(parse(chosen), parse(rejected), source="s")


def rendered(turns: list[Turn]) -> str:
    return "".join(f"\n\n{MARKS[turn.role]}: {turn.text}" for turn in turns)


@st.composite
def conversations(draw: st.DrawFn) -> list[Turn]:
    texts = draw(st.lists(unmarked, min_size=1, max_size=8))
    return [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]


@given(conversations())
def test_a_conversation_comes_back_turn_by_turn(turns: list[Turn]) -> None:
    assert list(parse(rendered(turns))) == turns


@given(
    st.text() | st.lists(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "x", " "])).map("".join)
)
def test_any_text_is_turns_or_a_named_reason(text: str) -> None:
    try:
        turns = parse(text)
    except RowProblem as problem:
        assert str(problem).isidentifier()
        return
    assert turns[0].role == "user"
    assert all(one.role != other.role for one, other in itertools.pairwise(turns))


@given(conversations(), unmarked, unmarked)
def test_a_pair_parts_at_the_last_reply(turns: list[Turn], good: str, bad: str) -> None:
    context = turns if len(turns) % 2 else turns[:-1]
    chosen = rendered([*context, Turn("assistant", good)])
    rejected = rendered([*context, Turn("assistant", bad)])
    row = pair(chosen, rejected)
    assert (row.answer, row.correction, row.source) == (bad, good, "s")
    assert [*row.history, Turn("user", row.question)] == context


ASKED = "\n\nHuman: q"
REPLY = ASKED + "\n\nAssistant: a"


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("", REPLY, "no_marks"),
        ("hello", REPLY, "no_marks"),
        ("intro" + REPLY, REPLY, "text_before_marks"),
        ("\n\nAssistant: a", REPLY, "not_user_first"),
        (REPLY + "\n\nAssistant: b", REPLY, "role_repeated"),
        (REPLY, ASKED + ASKED + "\n\nAssistant: a", "role_repeated"),
        ("\n\nHuman: \n\nAssistant: a", REPLY, "empty_turn"),
        (ASKED, REPLY, "no_reply"),
        (ASKED + "\n\nAssistant:", REPLY, "empty_reply"),
        (REPLY, ASKED + "\n\nAssistant: ", "empty_reply"),
        (REPLY + ASKED + "\n\nAssistant: b", REPLY, "turns_differ"),
        (REPLY, "\n\nHuman: other\n\nAssistant: a", "context_differs"),
    ],
)
def test_what_is_no_pair_has_a_name(chosen: str, rejected: str, reason: str) -> None:
    with pytest.raises(RowProblem) as caught:
        pair(chosen, rejected)
    assert str(caught.value) == reason


def test_a_transcript_without_leading_line_breaks_is_read() -> None:
    assert parse(REPLY.lstrip()) == parse(REPLY)
