"""A circuit breaker: an upstream that fails again and again is left alone for a while.

While it is closed, requests go through. Some failures in a row open it, and requests are told at
once that there is nobody instead of each waiting to find out. After a while one request may try:
it closes the breaker, or keeps it open for twice as long.
"""

import logging
import time
from collections.abc import Callable
from typing import Literal

from aligner_serve.config.upstream import BreakerConfig

State = Literal["closed", "open", "half_open"]

_LOG = logging.getLogger(__name__)


class Breaker:
    """Of one upstream, in one process of the gateway; each process finds out for itself."""

    def __init__(
        self, name: str, config: BreakerConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``name`` is the upstream's; ``clock`` gives seconds."""
        self._name, self._config, self._clock = name, config, clock
        self._era = 0
        """Grows with each change; what requests of an earlier one report says nothing any more."""
        self._failures = 0
        self._open_s = 0.0
        self._opened_until: float | None = None
        self._trying = False

    @property
    def state(self) -> State:
        """What a request would find now."""
        if self._opened_until is None:
            return "closed"
        return "open" if self._clock() < self._opened_until else "half_open"

    @property
    def retry_after_s(self) -> float:
        """How long it will let nobody through."""
        return 0.0 if self._opened_until is None else max(0.0, self._opened_until - self._clock())

    def admit(self) -> int | None:
        """Leave to ask once: a number under which the outcome is told. ``None``: not now."""
        if self._opened_until is not None:
            if self._trying or self._clock() < self._opened_until:
                return None
            self._trying = True
        return self._era

    def succeeded(self, era: int) -> None:
        """The upstream did what it is there for."""
        if era != self._era:
            return
        self._failures = 0
        if self._opened_until is not None:
            self._opened_until = None
            self._changed()
            _LOG.warning("upstream %s: answers again", self._name)

    def failed(self, era: int, reason: str, retry_after_s: float = 0.0) -> None:
        """The upstream is to blame, and perhaps said how long it wants to be left alone."""
        if era != self._era:
            return
        self._failures += 1
        if self._opened_until is not None:
            self._open_s = min(2 * self._open_s, self._config.longest_open_s)
        elif self._failures >= self._config.failures:
            self._open_s = self._config.open_s
        else:
            return
        away_s = max(self._open_s, min(retry_after_s, self._config.longest_open_s))
        self._opened_until = self._clock() + away_s
        self._changed()
        _LOG.warning(
            "upstream %s: not asked for %g s after %d failures in a row, the last: %s",
            self._name,
            away_s,
            self._failures,
            reason,
        )

    def unknown(self, era: int) -> None:
        """The request ended in a way that says nothing about the upstream."""
        if era == self._era:
            self._trying = False

    def _changed(self) -> None:
        self._era += 1
        self._trying = False
