"""The pipeline's whole contract, over plain callables: no network, no Ray, no model."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_serve.config.aligner import FailurePolicy
from aligner_serve.pieces import Delta, Failed, Finished, Piece, Usage
from aligner_serve.pipeline import RAW, Ask, Correct, Reply, Step, Terms, Trouble, respond, stream

Event = Piece
CANARY = "the raw answer"


def asks(answer: str = CANARY, *, usage: Usage | None = None) -> Ask:
    async def ask(deadline_s: float) -> AsyncGenerator[Piece]:
        yield Delta(answer[:4])
        yield Delta(answer[4:])
        yield Finished(usage or Usage(), by="up")

    return ask


def corrects(*events: Event | float) -> Correct:
    """Gives ``events`` in order; a number is a pause in seconds."""

    async def correct(answer: str, deadline_s: float) -> AsyncGenerator[Piece]:
        for event in events:
            if isinstance(event, float):
                await asyncio.sleep(event)
            else:
                yield event

    return correct


@dataclass(frozen=True)
class Policy:
    """What the tests change of a request's terms."""

    on_failure: FailurePolicy = "passthrough"
    deadline_s: float = 5.0
    correction_timeout_s: float = 5.0
    stop: tuple[str, ...] = ()

    def step(self, correct: Correct) -> Step:
        return Step("fixer", correct, self.correction_timeout_s, self.on_failure)

    @property
    def terms(self) -> Terms:
        return Terms(self.deadline_s, stop=self.stop)


terms = Policy


def whole(*events: Event | float, terms: Policy = Policy()) -> Reply | Trouble:
    return answered(asks(), [terms.step(corrects(*events))], terms)


def answered(ask: Ask, steps: Sequence[Step], policy: Policy = Policy()) -> Reply | Trouble:
    return asyncio.run(respond(ask, steps, upstream="up", terms=policy.terms))


def pieces(*events: Event | float, terms: Policy = Policy()) -> list[object]:
    return streamed(asks(), [terms.step(corrects(*events))], terms)


def streamed(ask: Ask, steps: Sequence[Step], policy: Policy = Policy()) -> list[object]:
    async def collect() -> list[object]:
        events = stream(ask, steps, upstream="up", terms=policy.terms)
        return [event async for event in events]

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

    async def correct(answer: str, deadline_s: float) -> AsyncGenerator[Event]:
        given.append(answer)
        yield Delta("x")
        yield Finished()

    answered(asks("from upstream"), [Step("fixer", correct, 5.0)])
    assert given == ["from upstream"]


def test_tokens_of_both_stages_are_added() -> None:
    correct = corrects(Delta("x"), Finished(Usage(20, 7)))
    end = answered(asks(usage=Usage(3, 5)), [Step("fixer", correct, 5.0)])
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
    async def ask(deadline_s: float) -> AsyncGenerator[Piece]:
        yield Delta("half an ans")
        yield Failed("http_429", retry_after_s=7.0)

    end = answered(ask, [Policy().step(corrects(Delta("x"), Finished()))])
    assert isinstance(end, Trouble)
    assert (end.stage, end.reason, end.retry_after_s) == ("upstream", "http_429", 7.0)


async def hangs(deadline_s: float) -> AsyncGenerator[Piece]:
    yield Delta("a ")
    await asyncio.sleep(60)


def test_an_upstream_that_hangs_ends_with_the_deadline() -> None:
    end = answered(hangs, [Policy().step(corrects())], Policy(deadline_s=0.05))
    assert isinstance(end, Trouble)
    assert (end.stage, end.reason) == ("upstream", "timeout")


def test_a_part_of_the_deadline_is_kept_for_correcting() -> None:
    told: list[float] = []

    async def ask(deadline_s: float) -> AsyncGenerator[Piece]:
        told.append(deadline_s)
        yield Delta(CANARY)
        yield Finished()

    async def correct(answer: str, deadline_s: float) -> AsyncGenerator[Piece]:
        told.append(deadline_s)
        yield Delta("x")
        yield Finished()

    terms = Terms(1000.0, correction_share=0.25)
    for steps in ([Step("fixer", correct, 400.0)], []):
        asyncio.run(respond(ask, steps, upstream="up", terms=terms))
    assert told == [pytest.approx(limit, abs=50) for limit in (750, 400, 1000)]


def test_the_correction_gets_what_the_upstream_left_of_the_deadline() -> None:
    told: list[float] = []

    async def ask(deadline_s: float) -> AsyncGenerator[Piece]:
        await asyncio.sleep(0.2)
        yield Delta(CANARY)
        yield Finished()

    async def correct(answer: str, deadline_s: float) -> AsyncGenerator[Piece]:
        told.append(deadline_s)
        yield Delta("x")
        yield Finished()

    policy = Policy(deadline_s=100.0, correction_timeout_s=200.0)
    answered(ask, [policy.step(correct)], policy)
    assert 0 < told[0] < 99.9


def test_a_client_that_goes_away_while_the_upstream_writes_cancels_it() -> None:
    cancelled = asyncio.Event()

    async def ask(deadline_s: float) -> AsyncGenerator[Piece]:
        try:
            yield Delta("a")
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def run() -> None:
        steps = [Policy().step(corrects())]
        task = asyncio.create_task(respond(ask, steps, upstream="up", terms=Terms(5.0)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled.is_set()

    asyncio.run(run())


@pytest.mark.parametrize("how", ["closed", "too late"])
def test_a_correction_that_nobody_waits_for_is_closed(how: str) -> None:
    closed = asyncio.Event()

    async def correct(answer: str, deadline_s: float) -> AsyncGenerator[Event]:
        try:
            yield Delta("first")
            await asyncio.sleep(60)
        finally:
            closed.set()

    async def run() -> None:
        events = stream(
            asks(), [Step("fixer", correct, timeout_s=0.05)], upstream="up", terms=Terms(5.0)
        )
        assert await anext(events) == Delta("first")
        if how == "closed":
            await events.aclose()
        else:
            assert isinstance(await anext(events), Trouble)
        assert closed.is_set()

    asyncio.run(run())


def test_each_stage_is_reported_with_its_time_and_its_tokens() -> None:
    correct = corrects(0.5, Delta("x"), Finished(Usage(9, 1), by="models:/fixer/3"))
    end = answered(asks(usage=Usage(2, 3)), [Step("fixer", correct, 5.0)])
    upstream, corrector = end.stages
    assert (upstream.stage, upstream.name, upstream.by) == ("upstream", "up", "up")
    assert (upstream.usage, corrector.usage) == (Usage(2, 3), Usage(9, 1))
    assert (corrector.stage, corrector.name, corrector.by) == (
        "corrector",
        "fixer",
        "models:/fixer/3",
    )
    assert corrector.ms >= 500 > upstream.ms >= 0


# --- raw answers, several aligners, several rounds ---------------------------------------------


def test_without_aligners_the_answer_passes_as_it_comes_and_says_why() -> None:
    *deltas, end = streamed(asks(), [])
    assert deltas == [Delta(CANARY[:4]), Delta(CANARY[4:])]
    assert isinstance(end, Reply)
    assert (end.outcome, end.reason, end.text) == ("passthrough", RAW, CANARY)


def appends(text: str, *, at_most: int = 99) -> Correct:
    async def correct(answer: str, deadline_s: float) -> AsyncGenerator[Piece]:
        more = text if answer.count(text) < at_most else ""
        yield Delta(answer)
        yield Delta(more)
        yield Finished(Usage(1, 1))

    return correct


def test_stacked_aligners_correct_one_after_the_other_and_only_the_last_streams() -> None:
    steps = [Step("a", appends("+a"), 5.0), Step("b", appends("+b"), 5.0)]
    *deltas, end = streamed(asks("x"), steps)
    assert deltas == [Delta("x+a"), Delta("+b")]
    assert isinstance(end, Reply)
    assert (end.text, end.outcome, end.usage) == ("x+a+b", "corrected", Usage(2, 2))
    assert [stage.name for stage in end.stages] == ["up", "a", "b"]


@pytest.mark.parametrize(("rounds", "text", "calls"), [(1, "x+", 1), (2, "x++", 2), (8, "x++", 3)])
def test_rounds_go_on_until_nothing_changes(rounds: int, text: str, calls: int) -> None:
    end = answered(asks("x"), [Step("a", appends("+", at_most=2), 5.0, rounds=rounds)])
    assert isinstance(end, Reply)
    assert (end.text, len(end.stages) - 1) == (text, calls)
    assert [stage.round for stage in end.stages[1:]] == [*range(1, calls + 1)]


def test_one_aligner_that_fails_leaves_the_work_of_those_before_it() -> None:
    steps = [Step("a", appends("+a"), 5.0), Step("b", corrects(Failed("unavailable")), 5.0)]
    end = answered(asks("x"), steps)
    assert isinstance(end, Reply)
    assert (end.outcome, end.text, end.reason) == ("passthrough", "x+a", "unavailable")
    blocked = answered(asks("x"), [steps[0], replace(steps[1], on_failure="block")])
    assert isinstance(blocked, Reply)
    assert (blocked.outcome, blocked.text) == ("blocked", "")


# --- stop sequences -----------------------------------------------------------------------------


def test_the_text_ends_before_a_stop_sequence_however_it_is_cut() -> None:
    policy = Policy(stop=("END", "\n\n"))
    events = (Delta("one E"), Delta("two EN"), Delta("D three"), Finished())
    *deltas, end = pieces(*events, terms=policy)
    assert isinstance(end, Reply)
    assert end.text == "one Etwo " == "".join(d.text for d in deltas if isinstance(d, Delta))


@given(
    cuts=st.lists(st.text(alphabet="abX", min_size=1, max_size=4), min_size=1, max_size=8),
    stop=st.lists(st.text(alphabet="abX", min_size=1, max_size=3), max_size=2),
)
def test_what_was_streamed_is_what_the_reply_says(cuts: list[str], stop: list[str]) -> None:
    policy = Policy(stop=tuple(stop))
    events: list[Event] = [*map(Delta, cuts), Finished()]
    *deltas, end = pieces(*events, terms=policy)
    plain = whole(*events, terms=policy)
    assert isinstance(end, Reply) and isinstance(plain, Reply)
    sent = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    assert sent in (end.text, "")
    assert end.text == plain.text
    assert not any(one in end.text for one in stop)
    assert "".join(cuts).startswith(end.text)
