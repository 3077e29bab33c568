"""Breakers and fallbacks around upstreams that do what a test tells them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from aligner.generation import Messages, Sampling
from aligner_serve.asking import Guarded, blames_upstream, breakers_of, with_fallbacks
from aligner_serve.breaker import Breaker
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.upstream import BreakerConfig
from aligner_serve.pieces import BUSY, TIMEOUT, Delta, Failed, Finished, Piece

MESSAGES: Messages = [{"role": "user", "content": "Why?"}]
DOWN = Failed("refused")


class Told:
    """An upstream that gives the pieces that it was made with; ``None`` is a long wait."""

    def __init__(self, *pieces: Piece | None) -> None:
        self.pieces = pieces
        self.asked: list[tuple[Sampling, float, bool]] = []
        self.closed = 0

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        self.asked.append((sampling, deadline_s, stream))
        try:
            for piece in self.pieces:
                if piece is None:
                    await asyncio.sleep(30)
                else:
                    yield piece
        finally:
            self.closed += 1


class Graph:
    """Upstreams ``a``, ``b`` and ``c``; ``a`` falls back to the others in this order."""

    def __init__(self, a: Told, b: Told | None = None, c: Told | None = None) -> None:
        self.told = {"a": a, "b": b or Told(DOWN), "c": c or Told(DOWN)}
        config = GraphConfig.model_validate(
            {
                "base_url": "http://127.0.0.1:9/v1",
                "upstreams": {
                    "a": {"fallbacks": ["b", "c"], "breaker": {"failures": 2}},
                    "b": {"max_tokens_limit": 10, "sampling": {"max_tokens": 10}},
                    "c": {},
                },
                "aligners": {"fixer": {"source": {"kind": "path", "uri": "nowhere"}}},
            }
        )
        self.breakers = breakers_of(config)
        self.upstreams = with_fallbacks(config, self.told, self.breakers)

    def ask(self, name: str = "a", *, stream: bool = True) -> list[Piece]:
        async def asked() -> list[Piece]:
            pieces = self.upstreams[name].ask(
                MESSAGES, Sampling(max_tokens=100), deadline_s=10.0, stream=stream
            )
            return [piece async for piece in pieces]

        return asyncio.run(asked())

    def count(self) -> list[int]:
        return [len(told.asked) for told in self.told.values()]


def works(text: str = "fine") -> Told:
    return Told(Delta(text), Finished())


def test_an_upstream_that_works_is_the_only_one_asked() -> None:
    graph = Graph(works(), works())
    assert graph.ask() == [Delta("fine"), Finished(by="a")]
    assert graph.count() == [1, 0, 0]


@pytest.mark.parametrize("stream", [True, False])
def test_the_next_is_asked_while_one_fails_and_the_reply_names_it(*, stream: bool) -> None:
    graph = Graph(Told(DOWN), Told(Failed("http_500")), works())
    assert graph.ask(stream=stream) == [Delta("fine"), Finished(by="c")]
    assert graph.count() == [1, 1, 1]


def test_where_all_fail_the_first_is_the_one_that_is_told_of() -> None:
    graph = Graph(Told(Failed("http_429", 7.0)), Told(Failed("http_500")))
    assert graph.ask() == [Failed("http_429", 7.0)]


@pytest.mark.parametrize("reason", ["http_400", "http_422", "no_text", "too_long", "unsuitable"])
def test_what_the_request_is_to_blame_for_goes_nowhere_else(reason: str) -> None:
    graph = Graph(Told(Failed(reason)), works())
    for _ in range(3):
        assert graph.ask() == [Failed(reason)]
    assert graph.count() == [3, 0, 0]
    assert graph.breakers["a"].state == "closed"


def test_a_stream_goes_nowhere_else_once_something_was_shown() -> None:
    graph = Graph(Told(Delta("half "), Failed("cut")), works())
    assert graph.ask() == [Delta("half "), Failed("cut")]
    assert graph.count() == [1, 0, 0]


def test_half_an_answer_that_nobody_saw_is_replaced() -> None:
    graph = Graph(Told(Delta("half "), Delta("of it"), Failed("cut")), works())
    assert graph.ask(stream=False) == [Delta("fine"), Finished(by="b")]


def test_an_open_breaker_sends_requests_on_at_once() -> None:
    graph = Graph(Told(DOWN), works())
    for _ in range(5):
        assert graph.ask() == [Delta("fine"), Finished(by="b")]
    assert graph.breakers["a"].state == "open"
    assert graph.count() == [2, 5, 0]


def test_without_a_fallback_an_open_breaker_says_when_to_come_back() -> None:
    graph = Graph(works())
    for _ in range(5):
        graph.ask("b")
    (failed,) = graph.ask("b")
    assert isinstance(failed, Failed) and failed.reason == "breaker_open"
    assert failed.retry_after_s is not None and 0 < failed.retry_after_s <= 5.0
    assert graph.count() == [0, 5, 0]


def test_a_fallback_has_its_own_limit_and_what_is_left_of_the_time() -> None:
    graph = Graph(Told(DOWN), works())
    graph.ask()
    ((sampling, deadline_s, _),) = graph.told["b"].asked
    assert sampling.max_tokens == 10
    assert 0 < deadline_s < 10.0
    ((sampling, _, _),) = graph.told["a"].asked
    assert sampling.max_tokens == 100


def test_a_full_queue_of_ours_goes_on_and_opens_nothing() -> None:
    graph = Graph(Told(Failed(BUSY)), works())
    for _ in range(5):
        assert graph.ask() == [Delta("fine"), Finished(by="b")]
    assert graph.breakers["a"].state == "closed"


def guarded(upstream: Told, breaker: Breaker) -> Guarded:
    return Guarded(upstream, breaker, name="a", max_tokens_limit=100)


def test_a_client_that_goes_away_says_nothing_about_the_upstream_and_closes_it() -> None:
    breaker = Breaker("a", BreakerConfig(failures=1))
    upstream = Told(Delta("half"), None)

    async def asked() -> None:
        pieces = guarded(upstream, breaker).ask(MESSAGES, Sampling(), deadline_s=10.0, stream=True)
        async with aclosing(pieces):
            assert await anext(pieces) == Delta("half")

    asyncio.run(asked())
    assert (breaker.state, upstream.closed) == ("closed", 1)


def test_whoever_gives_up_at_the_deadline_has_found_the_upstream_too_slow() -> None:
    breaker = Breaker("a", BreakerConfig(failures=1))
    upstream = Told(None)

    async def asked() -> None:
        pieces = guarded(upstream, breaker).ask(MESSAGES, Sampling(), deadline_s=0.1, stream=True)
        async with asyncio.timeout(1.0), aclosing(pieces):
            await anext(pieces)

    with pytest.raises(TimeoutError):
        asyncio.run(asked())
    assert (breaker.state, upstream.closed) == ("open", 1)


@pytest.mark.parametrize(
    "reason", [TIMEOUT, "stalled", "refused", "http_429", "http_401", "http_404", "http_503"]
)
def test_these_are_the_upstreams_fault(reason: str) -> None:
    assert blames_upstream(reason)
