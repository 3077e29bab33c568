import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.chat_events import ChatEvents, completions_of
from aligner.failures import CUT, MALFORMED, NO_TEXT, REPORTED, Failure
from aligner.generation import Completion


def line(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def piece(text: str | None, finish: str | None = None) -> bytes:
    return line({"choices": [{"delta": {"content": text}, "finish_reason": finish}]})


USAGE = line({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"
WHOLE = piece("真的 ") + b": a comment\n\n" + piece("🙂") + piece(None, "stop") + USAGE + DONE


def read(*parts: bytes) -> tuple[str, Completion | Failure]:
    events, text = ChatEvents(), ""
    for part in parts:
        fed = events.feed(part)
        if isinstance(fed, Failure):
            return text, fed
        text += fed
    return text, events.end()


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20))
def test_where_the_bytes_are_cut_does_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(WHOLE)]
    parts = [WHOLE[a:b] for a, b in itertools.pairwise(places)]
    text, end = read(*parts)
    assert text == "真的 🙂"
    assert end == Completion("真的 🙂", "stop", prompt_tokens=3, completion_tokens=2)


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)))
def test_no_bytes_whatever_are_an_accident(junk: bytes, place: int) -> None:
    _, end = read(WHOLE[:place] + junk + WHOLE[place:], WHOLE)
    assert isinstance(end, Completion | Failure)
    assert completions_of(junk) in (MALFORMED, NO_TEXT)


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (b"", MALFORMED),
        (b"<html>\n\n", MALFORMED),
        (b": only comments\n\n", MALFORMED),
        (piece("Hel"), CUT),
        (DONE, NO_TEXT),
        (piece(None, "stop"), NO_TEXT),
        (b"data: 7\n\n", MALFORMED),
        (b"data: null\n\n", MALFORMED),
        (b'data: {"choices": null}\n\n', MALFORMED),
        (b'data: {"choices": [7]}\n\n', MALFORMED),
        (b"data: " + b"[" * 100_000 + b"\n\n", MALFORMED),
        (b"data: {" + b"9" * 5_000 + b"\n\n", MALFORMED),
        (b'data: {"error": {"message": "m"}}\n\n', REPORTED),
    ],
)
def test_what_is_no_whole_text_has_a_name(sent: bytes, end: Failure) -> None:
    assert read(sent)[1] == end


def test_an_end_without_done_is_an_end() -> None:
    assert read(piece("Hello.", "length"))[1] == Completion("Hello.", "length")


def test_lines_may_end_as_windows_does_and_data_may_take_several() -> None:
    sent = b'data: {"choices":\r\ndata: [{"delta": {"content": "a"}}]}\r\n\r\n' + DONE
    assert read(sent) == ("a", Completion("a", "other"))


def test_counts_that_are_none_are_nought() -> None:
    usage = {"prompt_tokens": -1, "completion_tokens": 10**30}
    text = piece("a", "stop") + line({"choices": [], "usage": usage})
    assert read(text)[1] == Completion("a", "stop")


def test_a_whole_reply_too_deep_to_read_is_malformed() -> None:
    assert completions_of(b"[" * 100_000) == MALFORMED
