"""A session and its home in a real Ray Serve, without engines."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Iterator

import own_process
import pytest
from ray import serve

from aligner.records import Question
from aligner.runtime_env import free_port
from aligner_serve import affinity
from aligner_serve.config.graph import GraphConfig
from aligner_serve.handles import CorrectorHandle
from aligner_serve.pieces import READ_NOTHING, Delta, Finished, Piece, Reading, gathered

pytestmark = pytest.mark.e2e

REPLICAS = 3


class Names:
    """A corrector that says which process it is."""

    def __init__(self) -> None:
        self.ahead_of: list[str] = []

    async def check_health(self) -> None:
        """Always well."""

    async def ahead(
        self, aligner: str, question: Question, answer: str, *, tokens: int, deadline_s: float
    ) -> Reading:
        if question.question == "Die.":
            os.kill(os.getpid(), signal.SIGKILL)
        self.ahead_of.append(question.question)
        if question.question == "Wait.":
            try:
                await asyncio.Event().wait()
            finally:
                self.ahead_of.append("Left.")
        return Reading("read", tokens + len(answer), os.getpid())

    async def correct(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        # Long enough for others to come meanwhile.
        await asyncio.sleep(0.01)
        yield Delta(f"{os.getpid()} {self.ahead_of.count(question.question)}")
        yield Finished()

    async def correct_whole(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float
    ) -> list[Piece]:
        return await gathered(
            self.correct(aligner, question, answer, deadline_s=deadline_s, stream=False)
        )


@pytest.fixture(scope="module")
def corrector() -> Iterator[CorrectorHandle]:
    source = {"source": {"kind": "path", "uri": "nowhere"}}
    raw = {"base_url": "http://127.0.0.1:9/v1", "upstreams": {"up": {}}, "port": free_port()}
    config = GraphConfig.model_validate({**raw, "aligners": {"fixer": source}})
    with own_process.ray_and_serve(config):
        from ray import cloudpickle

        # Replicas do not find this module, which is no part of the wheel.
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
        deployment = serve.deployment(
            name="names",
            num_replicas=REPLICAS,
            max_ongoing_requests=100,
            ray_actor_options={"num_cpus": 0.1},
            health_check_period_s=1.0,
            request_router_config={"request_router_class": affinity.PATH},
        )
        handle = serve.run(deployment(Names).bind(), name="names", route_prefix=None)
        yield CorrectorHandle(handle, "fixer")


async def said(
    corrector: CorrectorHandle, session: str, question: str = "", *, stream: bool = False
) -> tuple[int, int]:
    """Which process has corrected, and how often it has read that ahead, or the session's pair."""
    asked = corrector.correct(
        Question(question or session), "", deadline_s=30, stream=stream, session=session
    )
    pieces = [piece async for piece in asked]
    assert isinstance(pieces[0], Delta), pieces
    pid, times = pieces[0].text.split()
    return int(pid), int(times)


async def conversation(corrector: CorrectorHandle, session: str) -> int:
    """Three readings and a correction; the process that had them all."""
    readings = [
        await corrector.ahead(
            Question(session), "so far", tokens=6 * turn, deadline_s=30, session=session
        )
        for turn in range(3)
    ]
    assert [one.tokens for one in readings] == [6, 12, 18]
    pid, times = await said(corrector, session, stream=session.endswith("1"))
    assert {one.computed for one in readings} == {pid}
    assert times == 3
    return pid


def test_what_was_read_ahead_is_corrected_where_it_was_read(corrector: CorrectorHandle) -> None:
    async def many() -> list[int]:
        return await asyncio.gather(*(conversation(corrector, f"s{n}") for n in range(30)))

    assert len({*asyncio.run(many())}) > 1


def test_a_home_that_is_gone_costs_no_correction(corrector: CorrectorHandle) -> None:
    async def bereft() -> None:
        before = await conversation(corrector, "bereft")
        dying = corrector.ahead(Question("Die."), "", tokens=0, deadline_s=30, session="bereft")
        assert await dying == READ_NOTHING
        after, times = await said(corrector, "bereft")
        assert (after != before, times) == (True, 0)
        # And that is its home now.
        again = corrector.ahead(Question("bereft"), "x", tokens=0, deadline_s=30, session="bereft")
        assert (await again).computed == after

    asyncio.run(bereft())


def test_a_reading_that_nobody_wants_any_more_ends_where_it_is(corrector: CorrectorHandle) -> None:
    async def left() -> None:
        async def times(question: str) -> int:
            return (await said(corrector, "s", question))[1]

        # From then on the session has a home.
        assert await times("Wait.") == 0
        waiting = asyncio.ensure_future(
            corrector.ahead(Question("Wait."), "", tokens=0, deadline_s=30, session="s")
        )
        async with asyncio.timeout(120):
            while await times("Wait.") == 0:
                await asyncio.sleep(0.05)
            assert await times("Left.") == 0
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            while await times("Left.") == 0:
                await asyncio.sleep(0.05)

    asyncio.run(left())
