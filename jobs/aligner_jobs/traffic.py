"""What goes to one endpoint and comes back: held back where that is due, counted in any case."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from aligner.generation import Attempt, Settle
from aligner_jobs.budget import Grant
from aligner_jobs.cooldown import Cooldown
from aligner_jobs.line import Line

_NOTHING_USED: Final = "http_"
"""Begins the outcomes of requests that were turned away; of others the endpoint may have
generated what nobody received."""


class Traffic:
    """Of one worker to one endpoint; its :meth:`admit` is an :data:`aligner.generation.Admit`."""

    def __init__(
        self,
        name: str,
        line: Line | None,
        *,
        budgeted: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``name`` is what budget and ledger know the endpoint by; no ``line``, no ledger."""
        self._name = name
        self._line = line
        self._budgeted = budgeted and line is not None
        self._clock = clock
        self._cooldown = Cooldown()

    async def admit(self, tokens: int) -> Settle:
        """Wait out a cool-down of the endpoint, then for a budget of ``tokens``."""
        while (wait_s := self._cooldown.wait_s(self._clock())) > 0:
            self._count(cooldowns=1)
            # Those who waited together must not come back together.
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.2))
        grant = None
        if self._budgeted and self._line is not None:
            grant = await self._line.admit(self._name, tokens)
        return lambda attempt: self._settle(attempt, grant)

    def _settle(self, attempt: Attempt, grant: Grant | None) -> None:
        self._cooldown.hear(
            self._clock(),
            turned_away=attempt.outcome == "http_429",
            retry_after_s=attempt.retry_after_s,
        )
        used = attempt.prompt_tokens + attempt.completion_tokens
        self._count(
            sent=1,
            prompt_tokens=attempt.prompt_tokens,
            completion_tokens=attempt.completion_tokens,
            **{f"reply_{attempt.outcome}": 1},
        )
        if grant is None or self._line is None:
            return
        if used or attempt.outcome.startswith(_NOTHING_USED):
            self._line.settle(self._name, grant, used)

    def _count(self, **amounts: int) -> None:
        if self._line is not None:
            self._line.count(self._name, **amounts)
