"""How much each key may ask: requests and tokens per minute, each a bucket that fills up again.

What a request uses is known at its end, so a bucket of tokens may be overdrawn, and then nobody
gets in until the debt is worked off. Counting windows cannot owe, which is why these are ours.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from aligner_serve.telemetry import Ended, Telemetry

_MINUTE_S: Final = 60.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Limits:
    """Per minute; ``None`` is no limit."""

    requests: int | None = None
    tokens: int | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is anything to count."""
        return self.requests is not None or self.tokens is not None


class Quotas(Protocol):
    """Keeps count."""

    async def admit(self, name: str, limits: Limits) -> float:
        """Count one request of ``name``: 0, or in how many seconds it may come again."""

    def charge(self, name: str, tokens: int) -> None:
        """Take off what a request of ``name`` has used."""


class _Bucket:
    """Holds a minute's worth, full at first, and fills up evenly."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until there is ``amount`` in it."""
        rate = self.per_minute / _MINUTE_S
        self._level = min(float(self.per_minute), self._level + (now - self._at) * rate)
        self._at = now
        return max(0.0, (amount - self._level) / rate)

    def take(self, amount: float) -> None:
        """Less ``amount``, or a debt."""
        self._level -= amount


class Ledger:
    """The count of one process; implements :class:`Quotas`."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, _Bucket] = {}
        self._tokens: dict[str, _Bucket] = {}

    async def admit(self, name: str, limits: Limits) -> float:
        """See :class:`Quotas`; what is turned away is not counted."""
        now = self._clock()
        requests = self._bucket(self._requests, name, limits.requests, now)
        tokens = self._bucket(self._tokens, name, limits.tokens, now)
        wait_s = max(
            requests.wait_s(1, now) if requests else 0.0,
            # One must be left: what the request will use is not known.
            tokens.wait_s(1, now) if tokens else 0.0,
        )
        if requests and not wait_s:
            requests.take(1)
        return wait_s

    def charge(self, name: str, tokens: int) -> None:
        """See :class:`Quotas`."""
        if (bucket := self._tokens.get(name)) is not None:
            bucket.wait_s(0, self._clock())
            bucket.take(tokens)

    def _bucket(
        self, buckets: dict[str, _Bucket], name: str, per_minute: int | None, now: float
    ) -> _Bucket | None:
        if per_minute is None:
            buckets.pop(name, None)
            return None
        found = buckets.get(name)
        if found is None or found.per_minute != per_minute:
            found = buckets[name] = _Bucket(per_minute, now)
        return found


class Charging:
    """Telemetry that also charges each request's tokens to who asked."""

    def __init__(self, telemetry: Telemetry, quotas: Quotas) -> None:
        """``telemetry`` hears of it as well."""
        self._telemetry = telemetry
        self._quotas = quotas

    def ended(self, record: Ended) -> None:
        """Charge all stages; a failed one has used nothing that is known."""
        self._telemetry.ended(record)
        used = (stage.usage for stage in record.end.stages)
        tokens = sum(usage.prompt_tokens + usage.completion_tokens for usage in used)
        if tokens:
            self._quotas.charge(record.caller, tokens)


def whole_seconds(wait_s: float) -> int:
    """For ``Retry-After``: never too early."""
    return max(1, math.ceil(wait_s))
