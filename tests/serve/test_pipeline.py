"""The pipeline's whole contract, over plain callables: no network, no Ray, no model."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_serve.config.aligner import FailurePolicy
from aligner_serve.pipeline import (
    Answered,
    Delta,
    Failed,
    Finished,
    Reply,
    Terms,
    Trouble,
    Usage,
    respond,
    stream,
)

Event = Delta | Finished | Failed
CANARY = "the raw answer"


def asks(answer: str = CANARY, *, usage: Usage | None = None) -> Callable[[], Awaitable[Answered]]:
    async def ask() -> Answered:
        return Answered(answer, usage or Usage())

    return ask


def corrects(*events: Event | float) -> Callable[[str], AsyncGenerator[Event]]:
    """Gives ``events`` in order; a number is a pause in seconds."""

    async def correct(answer: str) -> AsyncGenerator[Event]:
        for event in events:
            if isinstance(event, float):
                await asyncio.sleep(event)
            else:
                yield event

    return correct


def terms(
    on_failure: FailurePolicy = "passthrough",
    *,
    deadline_s: float = 5.0,
    correction_timeout_s: float = 5.0,
) -> Terms:
    return Terms(deadline_s, correction_timeout_s, on_failure)


def whole(*events: Event | float, terms: Terms = terms()) -> Reply | Trouble:  # noqa: B008
    return asyncio.run(respond(asks(), corrects(*events), terms=terms))


def pieces(*events: Event | float, terms: Terms = terms()) -> list[object]:  # noqa: B008
    async def collect() -> list[object]:
        return [event async for event in stream(asks(), corrects(*events), terms=terms)]

    return asyncio.run(collect())


FAILURES = {
    "an empty correction": ([Finished()], "empty"),
    "white space alone": ([Delta(" \n"), Finished()], "empty"),
    "one that never ends": ([Failed("length")], "length"),
    "a pair that does not fit": ([Failed("too_long")], "too_long"),
    "an engine that is gone": ([Failed("unavailable")], "unavailable"),
    "a corrector that falls silent": ([], "empty"),
    "one that takes too long": ([1.0, Delta("late"), Finished()], "timeout"),
}
failing = pytest.mark.parametrize(
    ("events", "reason"), FAILURES.values(), ids=lambda value: value if value is str else None
)
HURRY_S = 0.05


def test_a_correction_replaces_the_answer() -> None:
    end = whole(Delta("the "), Delta("correction"), Finished())
    assert isinstance(end, Reply)
    assert (end.outcome, end.text, end.answer) == ("corrected", "the correction", CANARY)
    assert end.reason is None


def test_an_answer_returned_word_for_word_is_unchanged() -> None:
    end = whole(Delta(CANARY), Finished())
    assert isinstance(end, Reply)
    assert end.outcome == "unchanged"


def test_the_corrector_is_given_the_answer() -> None:
    given: list[str] = []

    async def correct(answer: str) -> AsyncGenerator[Event]:
        given.append(answer)
        yield Delta("x")
        yield Finished()

    asyncio.run(respond(asks("from upstream"), correct, terms=terms()))
    assert given == ["from upstream"]


def test_tokens_of_both_stages_are_added() -> None:
    async def run() -> Reply | Trouble:
        ask = asks(usage=Usage(3, 5))
        return await respond(ask, corrects(Delta("x"), Finished(Usage(20, 7))), terms=terms())

    end = asyncio.run(run())
    assert isinstance(end, Reply)
    assert end.usage == Usage(23, 12)


@failing
def test_by_default_the_answer_passes_through_and_the_reason_is_told(
    events: list[Event | float], reason: str
) -> None:
    end = whole(*events, terms=terms(correction_timeout_s=HURRY_S))
    assert isinstance(end, Reply)
    assert (end.outcome, end.text, end.reason) == ("passthrough", CANARY, reason)


@failing
def test_a_blocked_answer_does_not_leave(events: list[Event | float], reason: str) -> None:
    end = whole(*events, terms=terms("block", correction_timeout_s=HURRY_S))
    assert isinstance(end, Reply)
    assert (end.outcome, end.text, end.reason) == ("blocked", "", reason)


@failing
def test_under_the_policy_error_a_failed_correction_is_an_error(
    events: list[Event | float], reason: str
) -> None:
    end = whole(*events, terms=terms("error", correction_timeout_s=HURRY_S))
    assert isinstance(end, Trouble)
    assert (end.stage, end.reason) == ("corrector", reason)


@failing
def test_on_a_stream_a_failure_before_the_first_word_ends_as_a_plain_one_does(
    events: list[Event | float], reason: str
) -> None:
    (end,) = pieces(*events, terms=terms(correction_timeout_s=HURRY_S))
    assert isinstance(end, Reply)
    assert (end.outcome, end.text, end.reason) == ("passthrough", CANARY, reason)


@pytest.mark.parametrize("policy", ["passthrough", "block", "error"])
def test_too_much_at_once_is_said_whatever_the_policy(policy: FailurePolicy) -> None:
    end = whole(Failed("busy"), terms=terms(policy))
    assert isinstance(end, Trouble)
    assert (end.stage, end.reason) == ("corrector", "busy")


def test_a_stream_gives_the_correction_as_it_comes_and_then_the_outcome() -> None:
    *deltas, end = pieces(Delta("the "), Delta("corr"), Delta("ection"), Finished())
    assert deltas == [Delta("the "), Delta("corr"), Delta("ection")]
    assert isinstance(end, Reply)
    assert (end.outcome, end.text) == ("corrected", "the correction")


def test_leading_white_space_waits_for_the_first_word() -> None:
    first, *_ = pieces(Delta(" "), Delta("\n"), Delta("word"), Finished())
    assert first == Delta(" \nword")


@pytest.mark.parametrize("policy", ["passthrough", "block", "error"])
@pytest.mark.parametrize("failure", [Failed("length"), Failed("unavailable"), 1.0])
def test_half_a_correction_is_never_patched_with_the_answer(
    policy: FailurePolicy, failure: Failed | float
) -> None:
    events = pieces(Delta("half a"), failure, terms=terms(policy, correction_timeout_s=HURRY_S))
    assert events[0] == Delta("half a")
    assert isinstance(events[-1], Trouble)
    assert len(events) == 2


@given(
    events=st.lists(
        st.one_of(
            st.builds(Delta, st.text(alphabet="abc \n", max_size=3)),
            st.just(Finished()),
            st.builds(Failed, st.sampled_from(["length", "busy", "unavailable"])),
        ),
        max_size=6,
    ),
    policy=st.sampled_from(["passthrough", "block", "error"]),
)
def test_the_raw_answer_never_leaves_but_as_a_passthrough(
    events: list[Event], policy: FailurePolicy
) -> None:
    got = pieces(*events, terms=terms(policy))
    end = got[-1]
    sent = "".join(event.text for event in got if isinstance(event, Delta))
    assert CANARY not in sent
    if isinstance(end, Reply):
        assert (end.text == CANARY) is (end.outcome == "passthrough")
        assert (end.outcome == "passthrough") <= (policy == "passthrough")
        assert end.text.startswith(sent)
        assert (end.reason is None) is (end.outcome in ("corrected", "unchanged"))


def test_an_upstream_that_fails_is_told_apart_from_the_corrector() -> None:
    async def ask() -> Failed:
        return Failed("http_500")

    end = asyncio.run(respond(ask, corrects(Delta("x"), Finished()), terms=terms()))
    assert isinstance(end, Trouble)
    assert (end.stage, end.reason) == ("upstream", "http_500")


def test_an_upstream_that_hangs_ends_with_the_deadline() -> None:
    async def ask() -> Answered:
        await asyncio.sleep(60)
        raise AssertionError

    start = time.monotonic()
    end = asyncio.run(respond(ask, corrects(), terms=terms(deadline_s=0.05)))
    assert isinstance(end, Trouble)
    assert (end.stage, end.reason) == ("upstream", "timeout")
    assert time.monotonic() - start < 5


def test_the_correction_gets_what_the_upstream_left_of_the_deadline() -> None:
    async def ask() -> Answered:
        await asyncio.sleep(0.1)
        return Answered(CANARY)

    correct = corrects(0.2, Delta("late"), Finished())
    end = asyncio.run(respond(ask, correct, terms=terms(deadline_s=0.15)))
    assert isinstance(end, Reply)
    assert (end.outcome, end.reason) == ("passthrough", "timeout")


def test_a_client_that_goes_away_while_the_upstream_writes_cancels_it() -> None:
    cancelled = asyncio.Event()

    async def ask() -> Answered:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    async def run() -> None:
        task = asyncio.create_task(respond(ask, corrects(), terms=terms()))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled.is_set()

    asyncio.run(run())


@pytest.mark.parametrize("how", ["closed", "too late"])
def test_a_correction_that_nobody_waits_for_is_closed(how: str) -> None:
    closed = asyncio.Event()

    async def correct(answer: str) -> AsyncGenerator[Event]:
        try:
            yield Delta("first")
            await asyncio.sleep(60)
        finally:
            closed.set()

    async def run() -> None:
        events = stream(asks(), correct, terms=terms(correction_timeout_s=0.05))
        assert await anext(events) == Delta("first")
        if how == "closed":
            await events.aclose()
        else:
            assert isinstance(await anext(events), Trouble)
        assert closed.is_set()

    asyncio.run(run())


def test_the_seconds_of_each_stage_are_told() -> None:
    end = whole(0.05, Delta("x"), Finished())
    assert end.seconds["corrector"] >= 0.05
    assert 0 <= end.seconds["upstream"] < 0.05
