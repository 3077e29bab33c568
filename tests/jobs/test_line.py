"""A line against a real switchboard in the same process: no Ray, no HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from aligner.errors import DataError
from aligner_jobs.line import Line
from aligner_jobs.switchboard import Delivery, Limits, Post, Switchboard

PACED = {"one": Limits(requests_per_min=6000, tokens_per_min=None)}


class Calls:
    """Passes posts on, as slowly as a call to another process, and remembers them."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self.posts: list[Post] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, post: Post) -> Delivery:
        self.posts.append(post)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        return self._switchboard.exchange(post)


@asynccontextmanager
async def connected(
    folder: Path, limits: dict[str, Limits] = PACED
) -> AsyncIterator[tuple[Line, Calls, Switchboard]]:
    switchboard = Switchboard(limits, str(folder))
    switchboard.open()
    calls = Calls(switchboard)
    try:
        yield Line(calls), calls, switchboard
    finally:
        switchboard.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def test_what_gathers_goes_in_one_call(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (line, calls, _):
            keys = [b"%d" % number for number in range(500)]
            await asyncio.gather(*(line.finish(key, b"v" + key) for key in keys))
            found = await asyncio.gather(*(line.look_up(key) for key in [*keys, b"other"]))
            assert found == [*(b"v" + key for key in keys), None]
            assert (len(calls.posts), calls.most_at_once) == (2, 1)

    run(test)


def test_counts_have_arrived_when_a_request_is_finished(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (line, _, switchboard):
            line.count("one", sent=2, reply_ok=1)
            line.count("one", sent=1)
            await line.finish()
            assert switchboard.ledger() == {"one": {"sent": 3, "reply_ok": 1}}

    run(test)


def test_a_budget_holds_over_all_lines(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (line, calls, _):
            lines, loop = [line, Line(calls)], asyncio.get_running_loop()
            started = loop.time()
            # 100 a second, and a burst of a quarter of a second at first.
            await asyncio.gather(*(lines[i % 2].admit("one", 1) for i in range(200)))
            assert loop.time() - started >= 1.5

    run(test)


def test_others_are_served_while_somebody_waits_for_a_budget(tmp_path: Path) -> None:
    async def test() -> None:
        limits = {"one": Limits(requests_per_min=1, tokens_per_min=None)}
        async with connected(tmp_path, limits) as (_, _, switchboard):

            async def exchange(post: Post) -> Delivery:
                # Whoever is not served at once is not served within this test.
                return replace(switchboard.exchange(post), wait_s=600.0)

            line = Line(exchange)
            await line.admit("one", 1)
            waiting = asyncio.create_task(line.admit("one", 1))
            # The first may go with the call that asks for the budget; the others find it made.
            for number in range(5):
                await line.finish(b"%d" % number, b"")
            assert not waiting.done()
            waiting.cancel()

    run(test)


def test_who_gives_up_waiting_uses_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        limits = {"one": Limits(requests_per_min=None, tokens_per_min=600)}
        async with connected(tmp_path, limits) as (line, _, _board):
            grant = await line.admit("one", 600)
            tired = [asyncio.create_task(line.admit("one", 600)) for _ in range(5)]
            await asyncio.sleep(0.05)
            for task in tired:
                task.cancel()
            line.settle("one", grant, 0)
            # Had one of them used its 600, this would take a minute.
            await line.admit("one", 10)

    run(test)


def test_what_ends_a_call_ends_all_who_wait(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (line, _, switchboard):
            switchboard.close()
            results = await asyncio.gather(
                line.look_up(b"k"), line.finish(b"k", b"v"), return_exceptions=True
            )
            assert [type(result) for result in results] == [DataError, DataError]
            with pytest.raises(DataError, match="closed"):
                await line.finish(b"k", b"v")
            switchboard.open()

    run(test)
