"""How long an engine lets its callers wait for a first token, of late."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

_PERCENTILE: Final = 0.9
_COUNTED: Final = 512
"""Calls that are looked at; of a fast engine the newest."""


class FirstTokens:
    """Counts the calls of one engine; none of their content is kept."""

    def __init__(
        self, *, recent_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """First tokens that came more than ``recent_s`` ago are forgotten."""
        self._recent_s, self._clock = recent_s, clock
        self._came: deque[tuple[float, float]] = deque(maxlen=_COUNTED)
        """When a first token came, and how long it had been waited for."""
        self._waiting: dict[int, float] = {}
        self._calls = 0

    def called(self) -> int:
        """Somebody waits from now on; returns the number of the call."""
        self._calls += 1
        self._waiting[self._calls] = self._clock()
        return self._calls

    def came(self, call: int) -> None:
        """The first token is there; those after it change nothing."""
        if (began := self._waiting.pop(call, None)) is not None:
            now = self._clock()
            self._came.append((now, now - began))

    def over(self, call: int) -> None:
        """The call has ended, if need be without a first token."""
        self._waiting.pop(call, None)

    def seconds(self) -> float:
        """The 90th percentile: of those that came or, where it is more, of those still waited for.

        An engine that is stuck gives no first tokens at all. 0 where nobody asks.
        """
        now = self._clock()
        while self._came and now - self._came[0][0] > self._recent_s:
            self._came.popleft()
        return max(
            _percentile([seconds for _, seconds in self._came]),
            _percentile([now - began for began in self._waiting.values()]),
        )


def _percentile(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(_PERCENTILE * len(values)) - 1] if values else 0.0
