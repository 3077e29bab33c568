"""When replicas come and go: the arithmetic, and a real Ray Serve that follows it."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import own_process
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle, serve

from aligner.records import Question
from aligner.runtime_env import free_port
from aligner_serve import app
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.scaling import EngineScaling, Scaling
from aligner_serve.first_tokens import FirstTokens
from aligner_serve.handles import CorrectorHandle
from aligner_serve.pieces import BUSY, Failed, Finished, Piece
from aligner_serve.scaling_policy import (
    FIRST_TOKEN_S,
    QUEUED_TOKENS,
    LoadOfEngines,
    by_first_token,
    by_tokens,
)


def tokens(requests: float, queued_tokens: float, *, waiting: float = 0) -> float:
    return by_tokens(
        ongoing_requests=requests,
        queued_requests=waiting,
        queued_tokens=queued_tokens,
        target_queued_tokens=100,
    )


def first(wait_s: float, *, replicas: int = 2, requests: float = 20) -> float:
    return by_first_token(
        ongoing_requests=requests,
        replicas=replicas,
        first_token_s=wait_s,
        target_first_token_s=2.0,
    )


def context(**changes: Any) -> Any:
    """What Serve hands the policy: two busy replicas."""
    return SimpleNamespace(
        **{
            "current_num_replicas": 2,
            "target_num_replicas": 2,
            "total_num_requests": 4.0,
            "total_queued_requests": 0.0,
            "aggregated_metrics": {
                QUEUED_TOKENS: {"first": 300.0, "second": 500.0},
                FIRST_TOKEN_S: {"first": 1.0, "second": 5.0, "idle": 0.0},
                "other": {"x": 9.0},
            },
            "config": SimpleNamespace(target_ongoing_requests=8),
            **changes,
        }
    )


def test_tokens_count_by_their_target_and_a_part_counts_as_a_part() -> None:
    assert tokens(1, 350) == 3.5
    assert tokens(0, 0) == 0


def test_requests_that_no_replica_has_taken_count_as_many_tokens_as_the_others() -> None:
    assert tokens(4, 100, waiting=2) == 2
    # All of them wait: nothing is known but their number.
    assert tokens(4, 0, waiting=4) == 0


def test_a_long_wait_for_first_tokens_adds_replicas_and_never_more_than_doubles_them() -> None:
    assert first(3.0) == 3
    assert first(60.0) == 4


def test_a_middling_wait_keeps_the_replicas_and_a_short_one_says_nothing() -> None:
    assert first(1.5) == first(1.01) == 2
    assert first(1.0) == first(0.0) == 0


def test_no_replica_is_added_for_requests_that_have_one_to_themselves() -> None:
    assert first(60.0, replicas=3, requests=3) == 3
    assert first(60.0, replicas=3, requests=1) == 1


@given(st.floats(0, 100), st.integers(1, 50), st.floats(0, 500))
def test_a_longer_wait_never_wants_fewer(wait_s: float, replicas: int, requests: float) -> None:
    shorter = first(wait_s, replicas=replicas, requests=requests)
    assert shorter <= first(wait_s * 1.5, replicas=replicas, requests=requests)
    assert 0 <= shorter <= min(2 * replicas, requests)


def test_the_policy_reads_what_serve_hands_it_and_takes_the_largest_need() -> None:
    assert LoadOfEngines(target_queued_tokens=200)(context()) == (4.0, {})
    # The mean of those who are asked is 3 s.
    assert LoadOfEngines(target_first_token_s=2.0)(context()) == (3.0, {})
    assert LoadOfEngines(200, 2.0)(context()) == (4.0, {})
    assert LoadOfEngines(20_000, 2.0)(context(total_num_requests=40.0)) == (5.0, {})
    assert LoadOfEngines()(context()) == (0.5, {})


def test_nothing_told_yet_leaves_the_requests() -> None:
    assert LoadOfEngines(200, 2.0)(context(aggregated_metrics=None)) == (0.5, {})


def test_nobody_waits_for_a_count_before_the_first_replica() -> None:
    none = context(current_num_replicas=0, target_num_replicas=1)
    assert LoadOfEngines()(none) == (1, {})


class Works:
    """Stands for an engine's replica: each request is worth its tokens until its time is over.

    One that has no tokens is waited for instead.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._first_tokens = FirstTokens(recent_s=1.0)

    async def work(self, tokens: int, seconds: float) -> AsyncGenerator[int]:
        self._tokens += tokens
        call = self._first_tokens.called()
        try:
            for number in range(10):
                if tokens:
                    self._first_tokens.came(call)
                await asyncio.sleep(seconds / 10)
                yield number
        finally:
            self._tokens -= tokens
            self._first_tokens.over(call)

    async def correct_whole(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float
    ) -> list[Piece]:
        """At work until the file that is called as the answer is there."""
        while not Path(answer).exists():
            await asyncio.sleep(0.02)
        return [Finished(by="works")]

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {QUEUED_TOKENS: self._tokens, FIRST_TOKEN_S: self._first_tokens.seconds()}


class Scaled:
    """Deployments with the options of the graph's, three that grow and one that takes little."""

    def __init__(self, config: GraphConfig) -> None:
        scaling = EngineScaling(
            max_replicas=3, num_cpus=0.1, target_queued_tokens=100, target_ongoing_requests=4,
            target_first_token_s=2, max_ongoing_requests=4, look_back_s=1, upscale_delay_s=0.5,
            downscale_delay_s=1,
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
        try:
            return [piece async for piece in pieces]
        except asyncio.CancelledError:
            pieces.cancel()
            raise

    def replicas(self) -> dict[str, int]:
        running = {}
        for name in self.handles:
            states = serve.status().applications[name].deployments[name].replica_states
            running[name] = {str(state): count for state, count in states.items()}.get("RUNNING", 0)
        return running

    async def until(self, holds: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        limit = time.monotonic() + 300
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
    ("name", "requests", "tokens"), [("corrector", 2, 140), ("upstream", 12, 1), ("gateway", 4, 0)]
)
def test_a_deployment_grows_by_itself_and_its_replicas_finish_what_they_have(
    scaled: Scaled, name: str, requests: int, tokens: int
) -> None:
    """Few requests of many tokens, many of few, or some that wait; the others stay as they are."""

    async def load() -> None:
        # More than enough: a busy machine takes long to start what the load calls for.
        work = [asyncio.create_task(scaled.work(name, tokens, 120)) for _ in range(requests)]
        grown = await scaled.until(lambda running: running[name] == 3)
        assert {count for other, count in grown.items() if other != name} == {1}
        # These are at work where a replica is told to end.
        longer = asyncio.gather(*(scaled.work(name, 1, 8) for _ in range(6)))
        for task in work:
            task.cancel()
        assert await longer == [list(range(10))] * 6
        await scaled.until(lambda running: running[name] == 1)

    asyncio.run(load())


@pytest.mark.e2e
def test_what_finds_no_place_in_the_queue_is_turned_away_at_once(
    scaled: Scaled, tmp_path: Path
) -> None:
    corrector = CorrectorHandle(scaled.handles["few"], "fixer")
    done = tmp_path / "done"

    async def ask() -> Piece:
        asked = corrector.correct(Question("q"), str(done), deadline_s=600, stream=False)
        (piece,) = [piece async for piece in asked]
        return piece

    async def crowd() -> list[Piece]:
        ends = asyncio.as_completed([ask() for _ in range(6)])
        # While others are at work, and stay at it.
        refused = [await next(ends) for _ in range(3)]
        assert refused == [Failed(BUSY)] * 3
        done.touch()
        return [await end for end in ends]

    assert Finished(by="works") in asyncio.run(crowd())
