"""What stands between a worker and an endpoint; the line goes to a switchboard in this process."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from aligner.generation import Attempt
from aligner_jobs.line import Line
from aligner_jobs.switchboard import Delivery, Limits, Post, Switchboard
from aligner_jobs.traffic import Traffic

TICKS = itertools.count(step=0.25)
"""The clock of budgets: so much goes by from one call to the next, however slow the machine is."""

LIMITS = {"one": Limits(requests_per_min=None, tokens_per_min=6000)}
OK = Attempt("ok", prompt_tokens=20, completion_tokens=30)
TURNED_AWAY = Attempt("http_429")


def run(folder: Path, test: Callable[[Line, Switchboard], Awaitable[None]]) -> None:
    async def bounded() -> None:
        switchboard = Switchboard(LIMITS, str(folder), clock=TICKS.__next__)
        switchboard.open()

        async def exchange(post: Post) -> Delivery:
            return switchboard.exchange(post)

        with closing(switchboard):
            async with asyncio.timeout(30):
                await test(Line(exchange), switchboard)

    asyncio.run(bounded())


def test_every_attempt_is_counted_by_its_outcome(tmp_path: Path) -> None:
    async def test(line: Line, switchboard: Switchboard) -> None:
        traffic = Traffic("one", line, budgeted=False)
        for attempt in (OK, TURNED_AWAY, OK, Attempt("timeout")):
            (await traffic.admit(100))(attempt)
        await line.finish()
        assert switchboard.ledger()["one"] == {
            "sent": 4,
            "reply_ok": 2,
            "reply_http_429": 1,
            "reply_timeout": 1,
            "prompt_tokens": 40,
            "completion_tokens": 60,
        }

    run(tmp_path, test)


def test_tokens_that_a_reply_did_not_use_are_free_again(tmp_path: Path) -> None:
    async def seconds(line: Line, attempt: Attempt) -> float:
        traffic, started = Traffic("one", line, budgeted=True), next(TICKS)
        for _ in range(8):
            (await traffic.admit(100))(attempt)
        return next(TICKS) - started

    async def test(line: Line, switchboard: Switchboard) -> None:
        # 100 tokens a second: half of each hundred is given back, or all of it.
        assert 2.5 <= await seconds(line, OK) <= 5.0
        assert await seconds(line, TURNED_AWAY) <= 3.0

    run(tmp_path, test)


def test_an_endpoint_that_turns_all_away_is_left_alone_for_a_while(tmp_path: Path) -> None:
    async def test(line: Line, switchboard: Switchboard) -> None:
        traffic, loop = Traffic("one", line, budgeted=False), asyncio.get_running_loop()
        started = loop.time()
        for _ in range(10):
            (await traffic.admit(1))(TURNED_AWAY)
        await asyncio.gather(*(traffic.admit(1) for _ in range(5)))
        assert loop.time() - started >= 0.9

    run(tmp_path, test)


def test_without_a_line_nothing_is_counted_and_nothing_held_back() -> None:
    async def test() -> None:
        traffic = Traffic("one", None, budgeted=True)
        (await traffic.admit(10**9))(OK)

    asyncio.run(test())
