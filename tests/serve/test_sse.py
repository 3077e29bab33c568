import json

from hypothesis import given
from hypothesis import strategies as st

from aligner_serve import sse
from aligner_serve.pieces import Usage
from aligner_serve.replies import AlignerReport
from aligner_serve.wire import ChatRequest

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(texts, min_size=1, max_size=5), texts)
def test_a_streams_events_join_to_the_text(pieces: list[str], model: str) -> None:
    request = ChatRequest.model_validate(
        {
            "model": model,
            "messages": [{"role": "user", "content": "Why?"}],
            "stream_options": {"include_usage": True},
        }
    )
    chunks = sse.Chunks(request)
    events = [chunks.role(0), *(chunks.text(0, piece) for piece in pieces)]
    events.append(chunks.last(0, "stop", AlignerReport(outcome="corrected", version="v")))
    events.append(chunks.usage(Usage(2, 3)))
    bodies = []
    for event in events:
        # One event is one line: a line break in the text must not end it early.
        line, *rest = event.decode().split("\n\n")
        assert rest == [""] and "\n" not in line
        bodies.append(json.loads(line.removeprefix("data: ")))
    *said, counted = bodies
    assert "".join(b["choices"][0]["delta"].get("content", "") for b in said) == "".join(pieces)
    assert {body["id"] for body in bodies} == {bodies[0]["id"]}
    assert [b["choices"][0]["finish_reason"] for b in said] == [None] * (len(pieces) + 1) + ["stop"]
    assert counted["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert counted["choices"] == []
    assert said[-1]["aligner"]["outcome"] == "corrected"
