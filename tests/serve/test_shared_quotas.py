import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError

from aligner_serve.quotas import Limits
from aligner_serve.shared_quotas import QuotaDesk, SharedQuotas


class Method:
    """One of a handle's, as Serve has them."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    def remote(self, *arguments: Any) -> Awaitable[Any]:
        return self._call(*arguments)


class Handle:
    """Of a desk in this process, which can be away."""

    def __init__(self) -> None:
        self.desk = QuotaDesk()
        self.away: Exception | None = None
        self.admit = Method(self._admit)
        self.charge = Method(self._charge)

    async def _admit(self, name: str, limits: Limits) -> float:
        if self.away is not None:
            raise self.away
        return await self.desk.admit(name, limits)

    async def _charge(self, name: str, tokens: int) -> None:
        if self.away is not None:
            raise self.away
        await self.desk.charge(name, tokens)


async def admitted(gateways: list[SharedQuotas], limits: Limits, *, times: int) -> int:
    waits = [await gateways[at % len(gateways)].admit("ann", limits) for at in range(times)]
    return waits.count(0.0)


def test_a_limit_is_the_same_however_many_gateways_there_are() -> None:
    handle = Handle()
    gateways = [SharedQuotas(handle) for _ in range(3)]
    assert asyncio.run(admitted(gateways, Limits(requests=4), times=12)) == 4


def test_what_one_gateway_charges_all_know() -> None:
    async def run() -> float:
        first, second = (SharedQuotas(handle) for handle in [Handle()] * 2)
        limits = Limits(tokens=60)
        assert await first.admit("ann", limits) == 0.0
        first.charge("ann", 100)
        await asyncio.sleep(0)
        return await second.admit("ann", limits)

    assert asyncio.run(run()) == pytest.approx(41.0, abs=0.5)


# A deployment that has gone, one that is overrun, and one that hangs.
@pytest.mark.parametrize("away", [RayError(), BackPressureError(1, 1), TimeoutError()])
def test_without_the_desk_each_gateway_counts_for_itself(away: Exception) -> None:
    async def run() -> int:
        handle = Handle()
        handle.away = away
        gateways = [SharedQuotas(handle) for _ in range(3)]
        gateways[0].charge("ann", 1)
        return await admitted(gateways, Limits(requests=4), times=24)

    assert asyncio.run(run()) == 3 * 4
