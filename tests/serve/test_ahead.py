"""Reading ahead, over an upstream and a corrector that are plain callables."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_serve.ahead import Ahead, overheard
from aligner_serve.config.ahead import PrefillAheadConfig
from aligner_serve.pieces import Delta, Failed, Finished, Piece, Reading, Usage
from aligner_serve.pipeline import Step, Terms, stream

WORDS = [f"word{number} " for number in range(10)]
"""Of 6 characters each."""
ANSWER = "".join(WORDS)


class Upstream:
    """Gives ``pieces`` as a stream, and the same or others as a whole."""

    def __init__(self, *pieces: Piece, whole: Sequence[Piece] | None = None) -> None:
        self.pieces, self.whole = pieces, whole
        self.asked: list[bool] = []
        self.closed = 0

    async def __call__(self, deadline_s: float, *, stream: bool) -> AsyncGenerator[Piece]:
        self.asked.append(stream)
        try:
            for piece in self.pieces if stream else self.whole or ():
                yield piece
                await asyncio.sleep(0.001)
        finally:
            self.closed += 1


def writes(*words: str, end: Piece | None = None) -> Upstream:
    return Upstream(*map(Delta, words), end or Finished(Usage(1, 2), by="up"))


class Reader:
    """A corrector that reads, and remembers what; ``results`` first, then it always reads."""

    def __init__(self, *results: Reading, takes_s: float = 0.0) -> None:
        self.results = list(results)
        self.takes_s = takes_s
        self.read: list[str] = []
        self.told: list[Reading] = []
        self.now = self.most = 0

    async def __call__(self, answer: str, tokens: int) -> Reading:
        self.read.append(answer)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.now -= 1
        if self.results:
            return self.results.pop(0)
        return Reading("read", len(answer), len(answer) - tokens)

    def ahead(
        self, *, min_new_chars: int = 1, before: int = 0, places: asyncio.Semaphore | None = None
    ) -> Ahead:
        return Ahead(
            self,
            settings=PrefillAheadConfig(min_new_chars=min_new_chars),
            chars_before=before,
            places=places or asyncio.Semaphore(8),
            told=self.told.append,
        )


def heard(
    upstream: Upstream, reader: Reader, *, min_new_chars: int = 1, before: int = 0
) -> list[Piece]:
    async def collect() -> list[Piece]:
        pieces = overheard(upstream, reader.ahead(min_new_chars=min_new_chars, before=before), 5.0)
        return [piece async for piece in pieces]

    return asyncio.run(collect())


def test_the_answer_comes_as_a_whole_and_is_read_while_it_grows() -> None:
    reader = Reader()
    pieces = heard(writes(*WORDS), reader)
    assert pieces == [Delta(ANSWER), Finished(Usage(1, 2), by="up")]
    assert len(reader.read) >= 3
    assert all(ANSWER.startswith(read) for read in reader.read)
    assert sorted(reader.read, key=len) == reader.read


@pytest.mark.parametrize(("before", "first"), [(0, 4), (12, 2), (100, 1)])
def test_too_little_is_not_read(before: int, first: int) -> None:
    reader = Reader()
    heard(writes(*WORDS), reader, min_new_chars=24, before=before)
    lengths = [len(read) for read in reader.read]
    assert lengths[0] == 6 * first
    assert all(b - a >= 24 for a, b in pairwise(lengths))


def test_one_request_has_one_reading_at_a_time() -> None:
    reader = Reader(takes_s=0.004)
    heard(writes(*WORDS), reader)
    assert reader.most == 1
    assert 2 <= len(reader.read) < len(WORDS)


def test_all_requests_together_have_no_more_than_are_allowed() -> None:
    reader = Reader(takes_s=0.004)

    async def many() -> None:
        places = asyncio.Semaphore(2)

        async def one() -> None:
            async for _ in overheard(writes(*WORDS), reader.ahead(places=places), 5.0):
                pass

        await asyncio.gather(*(one() for _ in range(6)))
        assert not places.locked()

    asyncio.run(many())
    assert reader.most == 2


def test_a_reading_under_way_is_dropped_when_the_answer_is_there() -> None:
    reader = Reader(takes_s=30)

    async def run() -> None:
        async with aclosing(overheard(writes(*WORDS), reader.ahead(), 5.0)) as pieces:
            assert await anext(pieces) == Delta(ANSWER)
            await asyncio.sleep(0)
            assert reader.now == 0

    asyncio.run(run())
    assert reader.told == [Reading("dropped")]


def test_a_request_that_nobody_waits_for_any_more_is_not_read() -> None:
    reader, upstream = Reader(takes_s=30), Upstream(Delta("some "), *[Delta("more ")] * 10_000)

    async def run() -> None:
        pieces = overheard(upstream, reader.ahead(), 60.0)
        waiting = asyncio.ensure_future(anext(pieces))
        while not reader.now:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await pieces.aclose()
        await asyncio.sleep(0)
        assert (reader.now, upstream.closed) == (0, 1)

    asyncio.run(run())


@pytest.mark.parametrize("result", ["loaded", "failed"])
def test_who_cannot_read_now_is_left_alone_for_longer_each_time(result: str) -> None:
    reader = Reader(*[Reading(result)] * 9)  # type: ignore[arg-type]
    heard(writes(*WORDS), reader, min_new_chars=6)
    assert [len(read) for read in reader.read] == [6, 18, 42]


def test_an_answer_that_breaks_off_is_asked_for_again_as_a_whole() -> None:
    upstream = writes("half an ", end=Failed("lost"))
    upstream.whole = [Delta("another"), Finished()]
    assert heard(upstream, Reader()) == [Delta("another"), Finished()]
    assert upstream.asked == [True, False]
    assert upstream.closed == 2


@pytest.mark.parametrize(
    "upstream", [Upstream(Failed("lost")), writes("half an ", end=Failed("no_text"))]
)
def test_what_would_fail_again_is_not_asked_again(upstream: Upstream) -> None:
    (failed,) = heard(upstream, Reader())
    assert isinstance(failed, Failed)
    assert upstream.asked == [True]


def test_an_upstream_that_falls_silent_gives_nothing() -> None:
    assert heard(Upstream(Delta("half")), Reader()) == []


@given(
    words=st.lists(st.text(alphabet="ab \n", max_size=4), max_size=6),
    end=st.sampled_from([Finished(), Finished(finish="length"), Failed("lost"), Failed("busy")]),
    correction=st.lists(
        st.builds(Delta, st.text(alphabet="xy ", max_size=3))
        | st.sampled_from([Finished(), Failed("length"), Failed("unavailable")]),
        max_size=5,
    ),
    readings=st.lists(st.sampled_from([Reading("read", 3), Reading("loaded"), Reading("failed")])),
    hold=st.booleans(),
)
def test_what_leaves_is_the_same_with_and_without_reading_ahead(
    words: list[str], end: Piece, correction: list[Piece], readings: list[Reading], hold: bool
) -> None:
    async def correct(answer: str, deadline_s: float) -> AsyncGenerator[Piece]:
        for piece in correction:
            yield piece

    async def events(*, ahead: bool) -> list[object]:
        upstream = Upstream(*map(Delta, words), end, whole=[*map(Delta, words), end])

        def ask(deadline_s: float) -> AsyncGenerator[Piece]:
            if ahead:
                return overheard(upstream, Reader(*readings).ahead(), deadline_s)
            return upstream(deadline_s, stream=False)

        step = Step("fixer", correct, 5.0, "block" if hold else "passthrough")
        found: list[object] = []
        async for event in stream(ask, [step], upstream="up", terms=Terms(5.0)):
            # All but the times.
            found.append(replace(event, stages=()) if not isinstance(event, Delta) else event)
        return found

    assert asyncio.run(events(ahead=True)) == asyncio.run(events(ahead=False))
