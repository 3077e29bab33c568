"""How many requests and tokens a minute an endpoint may be asked for, over all workers of a job.

Pure arithmetic on times that the caller passes in: seconds of any clock that never goes back.
"""

from dataclasses import dataclass
from typing import Final

_WINDOW_S: Final = 60.0
_SLOTS: Final = 600
_SLOT_S: Final = _WINDOW_S / _SLOTS

_BURST_S: Final = 0.25
"""What an idle quarter of a second leaves unused may be used at once. The one who asks comes back
every few hundredths of a second, so less would waste a part of the budget."""

_SHORTEST_WAIT_S: Final = 0.001
"""Below that, rounding could have somebody wait for nothing again and again."""


class Meter:
    """One quantity with a limit per minute.

    Two rules hold together: in no window of 60 s is more granted than the limit, and grants are
    spread evenly, so that a job does not spend its minute in the first second.
    """

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._slots: dict[int, int] = {}
        """Amounts by the slot of time that they were granted in, oldest first."""
        self._total = 0
        self._due = float("-inf")
        """When everything granted so far is paid off at the even rate."""

    def wait_s(self, now: float, amount: int) -> float:
        """Seconds until ``amount`` may be granted, as far as is known now; 0 if it may be now."""
        amount = min(amount, self._limit)
        self._forget(now)
        even_s = self._due - now - _BURST_S
        return max(0.0, even_s, self._window_wait_s(now, amount))

    def take(self, now: float, amount: int) -> None:
        """Grant ``amount``. More than the whole limit counts as the limit: it cannot be less."""
        amount = min(amount, self._limit)
        slot = int(now / _SLOT_S)
        self._slots[slot] = self._slots.get(slot, 0) + amount
        self._total += amount
        self._due = max(self._due, now) + amount * _WINDOW_S / self._limit

    def correct(self, granted_at: float, granted: int, used: int) -> None:
        """Say how much of a grant was used after all."""
        difference = min(used, self._limit) - min(granted, self._limit)
        self._due += difference * _WINDOW_S / self._limit
        slot = int(granted_at / _SLOT_S)
        if slot in self._slots:
            self._slots[slot] += difference
            self._total += difference

    def _window_wait_s(self, now: float, amount: int) -> float:
        over = self._total + amount - self._limit
        if over <= 0:
            return 0.0
        for slot, granted in self._slots.items():
            over -= granted
            if over <= 0:
                return (slot + 1 + _SLOTS) * _SLOT_S - now
        return 0.0

    def _forget(self, now: float) -> None:
        oldest = int(now / _SLOT_S) - _SLOTS
        # Slots are in order: times never go back, and a correction opens no new one.
        while self._slots and (slot := next(iter(self._slots))) < oldest:
            self._total -= self._slots.pop(slot)


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to send one request."""

    at: float
    tokens: int
    """That it may use, as they were counted."""


class Budget:
    """Requests and tokens per minute of one endpoint; ``None`` is no limit."""

    def __init__(self, *, requests_per_min: int | None, tokens_per_min: int | None) -> None:
        self._requests = Meter(requests_per_min) if requests_per_min else None
        self._tokens = Meter(tokens_per_min) if tokens_per_min else None

    def grant(self, now: float, tokens: int) -> Grant | float:
        """Leave to send a request of at most ``tokens`` tokens, or the seconds to wait for it."""
        wait_s = max(
            self._requests.wait_s(now, 1) if self._requests else 0.0,
            self._tokens.wait_s(now, tokens) if self._tokens else 0.0,
        )
        if wait_s > 0:
            return max(wait_s, _SHORTEST_WAIT_S)
        if self._requests:
            self._requests.take(now, 1)
        if self._tokens:
            self._tokens.take(now, tokens)
        return Grant(now, tokens)

    def settle(self, grant: Grant, used_tokens: int) -> None:
        """Say how many tokens a request used; what it did not use may be granted again."""
        if self._tokens:
            self._tokens.correct(grant.at, grant.tokens, used_tokens)
