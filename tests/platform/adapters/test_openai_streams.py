"""Streams of an API that breaks in every way: what becomes of them, and within what time."""

import asyncio
import dataclasses
import resource
import time
from collections.abc import Iterator

import broken_api
import pytest
from broken_api import ANSWER, FLOOD_BYTES, PIECES, Behaviour, BrokenApi

from aligner.adapters.openai_http import OpenAIChat
from aligner.failures import Failure
from aligner.generation import Completion, Endpoint, Sampling
from aligner.patience import Patience

MESSAGES = [{"role": "user", "content": "Why?"}]
PATIENCE = Patience(deadline_s=60.0, first_token_s=0.3, idle_s=0.3)
LONG = Patience(deadline_s=60.0, first_token_s=60.0, idle_s=60.0)
SOON_S = 30.0
"""Well before any of these is over, on a machine that is busy with something else, too."""
Given = list[str | Completion | Failure]


@pytest.fixture
def api() -> Iterator[BrokenApi]:
    with BrokenApi() as api:
        yield api


async def no_pause(_: float) -> None:
    pass


def ask(
    api: BrokenApi,
    *,
    held: bool = False,
    attempts: int = 1,
    timeout_s: float = 60.0,
    patience: Patience = LONG,
) -> Given:
    async def asked() -> Given:
        endpoint = Endpoint(
            base_url=api.base_url, model="m", max_attempts=attempts, timeout_s=timeout_s
        )
        async with OpenAIChat(endpoint, sleep=no_pause) as chat:
            stream = chat.stream(MESSAGES, Sampling(), patience=patience, held=held)
            return [piece async for piece in stream]

    return asyncio.run(asked())


def reason_of(given: Given) -> str:
    end = given[-1]
    assert isinstance(end, Failure), given
    return end.reason


def test_a_stream_is_its_pieces_and_then_the_whole(api: BrokenApi) -> None:
    *texts, end = ask(api)
    assert "".join(text for text in texts if isinstance(text, str)) == ANSWER
    assert end == Completion(ANSWER, "stop", prompt_tokens=5, completion_tokens=len(PIECES))
    (request,) = api.requests
    assert (request["stream"], request["stream_options"]) == (True, {"include_usage": True})


def test_what_is_held_comes_as_a_whole(api: BrokenApi) -> None:
    (end,) = ask(api, held=True)
    assert isinstance(end, Completion) and end.text == ANSWER


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("hangs", "stalled"),
        ("stalls", "stalled"),
        ("comments", "stalled"),
        ("breaks_off", "connection_lost"),
        ("ends_early", "cut"),
        ("reports_error", "reported"),
        ("garbage", "malformed"),
        ("garbage_stream", "malformed"),
        ("busy", "http_429"),
        ("fails", "http_500"),
        ("refuses", "http_400"),
        ("floods", "too_large"),
        ("floods_line", "too_large"),
        ("floods_error", "http_500"),
    ],
)
def test_every_way_to_break_has_a_name_and_ends_soon(
    api: BrokenApi, behaviour: Behaviour, reason: str
) -> None:
    api.behaviour = behaviour
    start = time.monotonic()
    # On a busy machine a short patience would have a say in the other ways, too.
    patience = PATIENCE if reason == "stalled" else LONG
    assert reason_of(ask(api, patience=patience)) == reason
    assert time.monotonic() - start < SOON_S


def test_a_drip_ends_at_the_time_of_one_attempt(api: BrokenApi) -> None:
    api.behaviour = "drips"
    start = time.monotonic()
    assert reason_of(ask(api, timeout_s=0.6, patience=LONG)) == "timeout"
    assert 0.5 < time.monotonic() - start < SOON_S


def test_the_deadline_ends_all_attempts(api: BrokenApi) -> None:
    api.behaviour = "drips"
    patience = dataclasses.replace(LONG, deadline_s=3.0)
    start = time.monotonic()
    assert reason_of(ask(api, attempts=5, held=True, patience=patience)) == "deadline"
    assert time.monotonic() - start < SOON_S
    assert len(api.requests) == 1


def test_a_flood_is_not_taken_in(api: BrokenApi) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for behaviour in ("floods", "floods_line", "floods_error"):
        api.behaviour, api.sent_bytes = behaviour, 0
        ask(api)
        assert api.sent_bytes < FLOOD_BYTES / 5, behaviour
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 40_000


def test_what_nobody_has_seen_is_asked_for_again(api: BrokenApi) -> None:
    api.behaviour = "breaks_off"

    async def asked(*, held: bool) -> Given:
        async def mended(_: float) -> None:
            api.behaviour = "works"

        endpoint = Endpoint(base_url=api.base_url, model="m", max_attempts=3)
        async with OpenAIChat(endpoint, sleep=mended) as chat:
            stream = chat.stream(MESSAGES, Sampling(), patience=LONG, held=held)
            return [piece async for piece in stream]

    (end,) = asyncio.run(asked(held=True))
    assert isinstance(end, Completion) and end.text == ANSWER
    assert len(api.requests) == 2
    api.behaviour = "breaks_off"
    given = asyncio.run(asked(held=False))
    # Two pieces have left: a second reply would be another text.
    assert reason_of(given) == "connection_lost"
    assert len(api.requests) == 3


def test_before_the_first_piece_a_stream_is_tried_again_as_a_plain_call_is(api: BrokenApi) -> None:
    api.behaviour = "fails"
    end = ask(api, attempts=3)[-1]
    assert isinstance(end, Failure) and end.attempts == 3
    assert len(api.requests) == 3


def test_retry_after_is_handed_on_where_there_is_no_time_for_it(
    api: BrokenApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken_api, "RETRY_AFTER_S", 61)
    api.behaviour = "busy"
    end = ask(api, attempts=3)[-1]
    assert isinstance(end, Failure)
    assert (end.reason, end.retry_after_s, len(api.requests)) == ("http_429", 61.0, 1)


def test_whoever_stops_listening_hangs_up(api: BrokenApi) -> None:
    api.behaviour = "drips"

    async def asked() -> None:
        async with OpenAIChat(Endpoint(base_url=api.base_url, model="m")) as chat:
            stream = chat.stream(MESSAGES, Sampling(), patience=LONG)
            assert await anext(stream) == "drip "
            await stream.aclose()
            await until_hung_up()

    async def until_hung_up() -> None:
        async with asyncio.timeout(60.0):
            while not api.hung_up:
                await asyncio.sleep(0.01)

    asyncio.run(asked())


def test_a_connection_is_used_again_after_a_stream(api: BrokenApi) -> None:
    async def asked() -> int:
        async with OpenAIChat(Endpoint(base_url=api.base_url, model="m")) as chat:
            for _ in range(5):
                async for _ in chat.stream(MESSAGES, Sampling(), patience=LONG):
                    pass
            return api.connections

    assert asyncio.run(asked()) == 1


def test_an_api_that_does_not_stream_is_taken_as_it_is(api: BrokenApi) -> None:
    async def asked() -> Completion | Failure:
        async with OpenAIChat(Endpoint(base_url=api.base_url, model="m")) as chat:
            return await chat.whole(MESSAGES, Sampling(), deadline_s=60.0)

    end = asyncio.run(asked())
    assert isinstance(end, Completion) and end.text == ANSWER
    assert "stream" not in api.requests[0]


def test_an_api_that_was_down_is_found_again(api: BrokenApi) -> None:
    api.go_down()
    assert reason_of(ask(api)) == "refused"
    api.come_up()
    assert isinstance(ask(api)[-1], Completion)
