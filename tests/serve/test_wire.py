import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aligner.generation import Sampling
from aligner.records import Question, Turn
from aligner_serve import wire

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def request(**changes: object) -> wire.ChatRequest:
    body = {"model": "m+a", "messages": [{"role": "user", "content": "Why?"}], **changes}
    return wire.ChatRequest.model_validate(body)


def test_the_last_message_is_the_question_and_earlier_turns_its_history() -> None:
    asked = request(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Is it?"},
            {"role": "assistant", "content": "It is."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}],
            },
        ]
    )
    history = (Turn("user", "Is it?"), Turn("assistant", "It is."))
    assert asked.asked == Question("Why?", history)
    assert asked.upstream_messages[0] == {"role": "system", "content": "Be brief."}
    assert asked.upstream_messages[-1] == {"role": "user", "content": "Why?"}


def test_a_request_changes_only_the_sampling_that_it_names() -> None:
    default = Sampling(temperature=0.7, top_k=5, max_tokens=64)
    assert request().sampling(default) == default
    changed = request(temperature=0.0, max_completion_tokens=9).sampling(default)
    assert changed == default.model_copy(update={"temperature": 0.0, "max_tokens": 9})


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "tool", "content": "x"}, {"role": "user", "content": "x"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        {"n": 17},
        {"stop": ["a"] * 5},
        {"temperature": 3},
        {"max_tokens": 0},
        {"tools": []},
        {"aligner": {"include_orignal": True}},
    ],
)
def test_what_cannot_be_done_is_refused_and_not_ignored(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        request(**changes)


@pytest.mark.parametrize(
    ("stop", "kept"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ("", ()), ([""], ())]
)
def test_stop_sequences_come_one_or_many(stop: object, kept: tuple[str, ...]) -> None:
    assert request(stop=stop).sampling(Sampling()).stop == kept


@given(texts, texts, st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), max_size=3))
def test_a_correction_request_survives_its_trip(
    question: str, answer: str, history: list[tuple[str, str]]
) -> None:
    body = {
        "question": question,
        "answer": answer,
        "history": [{"role": role, "content": text} for role, text in history],
    }
    asked = wire.CorrectionRequest.model_validate_json(json.dumps(body))
    assert (asked.asked.question, asked.answer) == (question, answer)
    assert [(turn.role, turn.text) for turn in asked.asked.history] == history


@pytest.mark.parametrize(
    "changes", [{"n": "1"}, {"n": True}, {"n": 1.5}, {"stream": 1}, {"temperature": "0.5"}]
)
def test_nothing_is_guessed_from_another_kind_of_value(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        request(**changes)


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert request(n=2.0).n == 2
