"""One count for all gateway replicas: a deployment of one replica that each of them asks.

If it is away, each gateway counts for itself: a limit is then at worst that many times as high,
and nobody is turned away for it. Its loss forgives what was asked in the last minute.
"""

import asyncio
import contextlib
from typing import Any, Final

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from aligner_serve.quotas import Ledger, Limits

_PATIENCE_S: Final = 1.0


class QuotaDesk:
    """The deployment."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    async def admit(self, name: str, limits: Limits) -> float:
        """See :class:`~aligner_serve.quotas.Quotas`."""
        return await self._ledger.admit(name, limits)

    async def charge(self, name: str, tokens: int) -> None:
        """See :class:`~aligner_serve.quotas.Quotas`."""
        self._ledger.charge(name, tokens)


class SharedQuotas:
    """The desk as a gateway sees it; implements :class:`~aligner_serve.quotas.Quotas`."""

    def __init__(self, handle: Any) -> None:
        """``handle`` is a Ray Serve ``DeploymentHandle``."""
        self._handle = handle
        self._own = Ledger()
        self._charges = set[asyncio.Task[None]]()

    async def admit(self, name: str, limits: Limits) -> float:
        """Ask the desk, or count here while it is away."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return float(await self._handle.admit.remote(name, limits))
        except (RayError, RayServeException, TimeoutError):
            return await self._own.admit(name, limits)

    def charge(self, name: str, tokens: int) -> None:
        """Tell the desk, and keep nobody waiting for it."""
        self._own.charge(name, tokens)
        task = asyncio.get_running_loop().create_task(self._tell(name, tokens))
        # The loop itself keeps no hold of its tasks.
        self._charges.add(task)
        task.add_done_callback(self._charges.discard)

    async def _tell(self, name: str, tokens: int) -> None:
        with contextlib.suppress(RayError, RayServeException, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self._handle.charge.remote(name, tokens)
