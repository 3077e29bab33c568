"""A worker's line to the switchboard: one call at a time, and what gathers goes with the next.

So hundreds of requests a second, each with a look into the kept replies, a budget and a reply to
keep, cost a few dozen calls.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aligner_jobs.budget import Grant
from aligner_jobs.switchboard import Delivery, Post

_GATHER_S: Final = 0.005

Exchange = Callable[[Post], Awaitable[Delivery]]
"""One call to :meth:`aligner_jobs.switchboard.Switchboard.exchange`."""

_Waiting = tuple[int, asyncio.Future[Grant]]


class Line:
    """All coroutines of one event loop share it; whatever ends a call ends all who wait for it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._looked_up: dict[bytes, list[asyncio.Future[bytes | None]]] = {}
        self._kept: list[tuple[bytes, bytes]] = []
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._wanted: dict[str, deque[_Waiting]] = defaultdict(deque)
        self._settled: dict[str, list[tuple[Grant, int]]] = defaultdict(list)
        self._finishing: list[asyncio.Future[None]] = []
        self._under_way: list[asyncio.Future[Any]] = []
        self._urgent = asyncio.Event()
        self._talk: asyncio.Task[None] | None = None

    async def look_up(self, key: bytes) -> bytes | None:
        """What is kept under ``key``."""
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._looked_up.setdefault(key, []).append(future)
        self._wake()
        return await future

    async def admit(self, name: str, tokens: int) -> Grant:
        """Wait until the budget of ``name`` lets a request of up to ``tokens`` tokens go."""
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._wanted[name].append((tokens, future))
        # Whoever stands behind others has to wait for them in any case.
        self._wake(urgent=len(self._wanted[name]) == 1)
        return await future

    def settle(self, name: str, grant: Grant, used_tokens: int) -> None:
        """Say how many tokens a request used; told with the next call."""
        self._settled[name].append((grant, used_tokens))

    def count(self, name: str, **amounts: int) -> None:
        """Add to the ledger; told with the next call."""
        self._counts[name].update(amounts)

    async def finish(self, key: bytes | None = None, value: bytes = b"") -> None:
        """Keep ``value`` under ``key``, if there is one; return when it and all counts are safe."""
        if key is not None:
            self._kept.append((key, value))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finishing.append(future)
        self._wake()
        await future

    def _wake(self, *, urgent: bool = True) -> None:
        if urgent:
            self._urgent.set()
        if self._talk is None or self._talk.done():
            self._talk = asyncio.get_running_loop().create_task(self._talking())
            self._talk.add_done_callback(self._hung_up)

    async def _talking(self) -> None:
        """Exchange until nobody waits any more."""
        wait_s = 0.0
        while self._looked_up or self._finishing or any(self._wanted.values()):
            await asyncio.sleep(_GATHER_S)
            # Those who wait for a budget are told when to ask again; others are served at once.
            with contextlib.suppress(TimeoutError):
                if wait_s > _GATHER_S:
                    await asyncio.wait_for(self._urgent.wait(), wait_s - _GATHER_S)
            self._urgent.clear()
            wait_s = await self._exchanged()

    async def _exchanged(self) -> float:
        """One call. Returns how long it makes no sense to ask for budgets again."""
        looked_up, self._looked_up = self._looked_up, {}
        finishing, self._finishing = self._finishing, []
        asking = [future for futures in looked_up.values() for future in futures]
        self._under_way = [*asking, *finishing]
        post = Post(
            look_up=list(looked_up),
            keep=self._kept,
            counts=self._counts,
            wanted=self._waiting(),
            settled=self._settled,
        )
        self._kept, self._counts = [], defaultdict(Counter)
        self._settled = defaultdict(list)
        delivery = await self._exchange(post)
        for key, futures in looked_up.items():
            for future in futures:
                if not future.done():
                    future.set_result(delivery.found.get(key))
        for name, grants in delivery.grants.items():
            for grant in grants:
                self._pass_on(name, grant)
        for done in finishing:
            if not done.done():
                done.set_result(None)
        return delivery.wait_s

    def _waiting(self) -> dict[str, list[int]]:
        """The tokens of who waits for a budget, those left out who have given up meanwhile."""
        for name, waiting in self._wanted.items():
            self._wanted[name] = deque(one for one in waiting if not one[1].done())
        return {
            name: [tokens for tokens, _ in waiting]
            for name, waiting in self._wanted.items()
            if waiting
        }

    def _pass_on(self, name: str, grant: Grant) -> None:
        _, future = self._wanted[name].popleft()
        if future.done():
            # Given up while the call was under way: others may have it.
            self.settle(name, grant, 0)
        else:
            future.set_result(grant)

    def _hung_up(self, talk: asyncio.Task[None]) -> None:
        if talk.cancelled() or (exc := talk.exception()) is None:
            return
        asking = [future for futures in self._looked_up.values() for future in futures]
        wanted = [future for waiting in self._wanted.values() for _, future in waiting]
        for future in (*self._under_way, *asking, *self._finishing, *wanted):
            if not future.done():
                future.set_exception(exc)
        self._looked_up, self._finishing = {}, []
        self._wanted.clear()


def line_to(switchboard: Any) -> Line | None:
    """A line to the process of :func:`aligner_jobs.switchboard.connected`, if there is one."""
    return None if switchboard is None else Line(switchboard.exchange.remote)
