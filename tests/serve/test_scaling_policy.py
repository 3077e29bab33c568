"""When replicas come and go: the arithmetic, and a real Ray Serve that follows it."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import own_process
import pytest
from ray import cloudpickle, serve

from aligner.runtime_env import free_port
from aligner_serve import app
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.scaling import EngineScaling, Scaling
from aligner_serve.handles import CorrectorHandle
from aligner_serve.pieces import BUSY, Failed, Finished, Piece
from aligner_serve.scaling_policy import QUEUED_TOKENS, RequestsAndTokens, wanted_replicas


def wanted(
    requests: float, tokens: float, *, queued: float = 0, target: float | None = 100
) -> float:
    return wanted_replicas(
        ongoing_requests=requests,
        queued_requests=queued,
        queued_tokens=tokens,
        target_ongoing_requests=10,
        target_queued_tokens=target,
    )


def test_the_larger_need_counts() -> None:
    assert wanted(30, 100) == 3
    assert wanted(1, 350) == 3.5
    assert wanted(0, 0) == 0


def test_without_a_target_tokens_do_not_count() -> None:
    assert wanted(5, 1_000_000, target=None) == 0.5


def test_requests_that_no_replica_has_taken_count_as_many_tokens_as_the_others() -> None:
    assert wanted(4, 100, queued=2) == 2
    # All of them wait: nothing is known but their number.
    assert wanted(4, 0, queued=4) == 0.4


def test_the_policy_reads_what_serve_hands_it() -> None:
    context = SimpleNamespace(
        current_num_replicas=2,
        target_num_replicas=2,
        total_num_requests=4.0,
        total_queued_requests=0.0,
        aggregated_metrics={QUEUED_TOKENS: {"first": 300.0, "second": 500.0}, "other": {"x": 9.0}},
        config=SimpleNamespace(target_ongoing_requests=8),
    )
    assert RequestsAndTokens(target_queued_tokens=200)(context) == (4.0, {})
    assert RequestsAndTokens()(context) == (0.5, {})
    context.aggregated_metrics = None
    assert RequestsAndTokens(target_queued_tokens=200)(context) == (0.5, {})


def test_nobody_waits_for_a_count_before_the_first_replica() -> None:
    context: Any = SimpleNamespace(current_num_replicas=0, target_num_replicas=1)
    assert RequestsAndTokens()(context) == (1, {})


class Works:
    """Stands for an engine's replica: each request is worth its tokens until its time is over."""

    def __init__(self) -> None:
        self._tokens = 0

    async def work(self, tokens: int, seconds: float) -> AsyncGenerator[int]:
        self._tokens += tokens
        try:
            for number in range(10):
                await asyncio.sleep(seconds / 10)
                yield number
        finally:
            self._tokens -= tokens

    async def correct_whole(self, *_: object) -> list[Piece]:
        await asyncio.sleep(2)
        return [Finished(by="works")]

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {QUEUED_TOKENS: self._tokens}


class Scaled:
    """Deployments with the options of the graph's, three that grow and one that takes little."""

    def __init__(self, config: GraphConfig) -> None:
        scaling = EngineScaling(
            max_replicas=3, num_cpus=0.1, target_queued_tokens=100, target_ongoing_requests=4,
            max_ongoing_requests=4, look_back_s=1, upscale_delay_s=0.5, downscale_delay_s=1,
        )  # fmt: skip
        few = Scaling(max_ongoing_requests=1, max_queued_requests=1, target_ongoing_requests=1)
        scalings = {"gateway": scaling, "upstream": scaling, "corrector": scaling, "few": few}
        self.handles: dict[str, Any] = {
            name: serve.run(
                serve.deployment(name=name, **app._options(config, scaling))(Works).bind(),
                name=name,
                route_prefix=None,
            )
            for name, scaling in scalings.items()
        }

    async def work(self, name: str, tokens: int, seconds: float) -> list[int]:
        pieces = self.handles[name].options(stream=True).work.remote(tokens, seconds)
        return [piece async for piece in pieces]

    def replicas(self) -> dict[str, int]:
        running = {}
        for name in self.handles:
            states = serve.status().applications[name].deployments[name].replica_states
            running[name] = {str(state): count for state, count in states.items()}.get("RUNNING", 0)
        return running

    async def until(self, holds: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        limit = time.monotonic() + 60
        while not holds(found := await asyncio.to_thread(self.replicas)):
            assert time.monotonic() < limit, found
            await asyncio.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def scaled() -> Iterator[Scaled]:
    config = GraphConfig.model_validate(
        {
            "port": free_port(),
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"up": {}},
            "aligners": {"fixer": {"source": {"kind": "path", "uri": "nowhere"}}},
        }
    )
    # Replicas cannot import a file of tests.
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)  # type: ignore[no-untyped-call]
    try:
        with own_process.ray_and_serve(config):
            yield Scaled(config)
    finally:
        cloudpickle.unregister_pickle_by_value(here)  # type: ignore[no-untyped-call]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "requests", "tokens"), [("corrector", 2, 140), ("upstream", 12, 1)]
)
def test_a_deployment_grows_by_itself_and_its_replicas_finish_what_they_have(
    scaled: Scaled, name: str, requests: int, tokens: int
) -> None:
    """Few requests of many tokens, or many of few; the others stay as they are."""

    async def load() -> None:
        work = asyncio.gather(*(scaled.work(name, tokens, 12) for _ in range(requests)))
        grown = await scaled.until(lambda running: running[name] == 3)
        assert {count for other, count in grown.items() if other != name} == {1}
        # These are long at work where a replica is told to end.
        longer = asyncio.gather(*(scaled.work(name, 1, 8) for _ in range(6)))
        assert await work == [list(range(10))] * requests
        assert await longer == [list(range(10))] * 6
        await scaled.until(lambda running: running[name] == 1)

    asyncio.run(load())


@pytest.mark.e2e
def test_what_finds_no_place_in_the_queue_is_turned_away_at_once(scaled: Scaled) -> None:
    corrector = CorrectorHandle(scaled.handles["few"], "fixer")

    async def ask() -> tuple[Piece, float]:
        started = time.monotonic()
        (piece,) = [
            piece async for piece in corrector.correct("q", "a", (), deadline_s=20, stream=False)
        ]
        return piece, time.monotonic() - started

    async def crowd() -> list[tuple[Piece, float]]:
        return await asyncio.gather(*(ask() for _ in range(6)))

    ends = asyncio.run(crowd())
    refused = [seconds for piece, seconds in ends if piece == Failed(BUSY)]
    assert {type(piece) for piece, _ in ends} == {Finished, Failed}
    assert len(refused) >= 3
    assert max(refused) < 1.5
