"""When an endpoint turns most requests away, nobody asks for a while.

A single 429 is a matter between the API and one request, which comes back after the pause that
it was given. When they are most of the recent replies, more requests only make more of them.
"""

from collections import deque
from typing import Final

_RECENT: Final = 20
_ENOUGH: Final = 10
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0


class Cooldown:
    """Pure: times are passed in, seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._turned_away: deque[bool] = deque(maxlen=_RECENT)
        self._until = float("-inf")
        self._pause_s = _FIRST_PAUSE_S

    def wait_s(self, now: float) -> float:
        """Seconds until the next request may be sent."""
        return max(0.0, self._until - now)

    def hear(self, now: float, *, turned_away: bool, retry_after_s: float | None = None) -> None:
        """Take one reply into account; ``turned_away`` says whether it was a 429."""
        if now < self._until:
            # An answer to what was sent before the pause says nothing about its end.
            return
        self._turned_away.append(turned_away)
        away = sum(self._turned_away)
        if len(self._turned_away) == _RECENT and away <= _RECENT // 4:
            self._pause_s = _FIRST_PAUSE_S
        if len(self._turned_away) < _ENOUGH or away * 2 < len(self._turned_away):
            return
        pause_s = max(self._pause_s, min(retry_after_s or 0.0, _LONGEST_PAUSE_S))
        self._until = now + pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._turned_away.clear()
