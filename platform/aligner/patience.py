"""How long a model behind an API is waited for."""

import asyncio
from dataclasses import dataclass

from aligner.failures import LOST, Failure
from aligner.generation import Endpoint


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a streamed reply is waited for; the endpoint's ``timeout_s`` bounds all of it."""

    deadline_s: float
    """For the request over all its attempts."""
    first_token_s: float
    """From sending to the first event."""
    idle_s: float
    """Between two reads after that."""


class Limits:
    """When the wait for the next bytes of an attempt is over, and what that is then called."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        deadline_s: float,
        ends_at: float | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._now = asyncio.get_running_loop().time
        sent = self._now()
        late = f"gave no usable reply within deadline_s={deadline_s:g}"
        slow = f"gave no reply within {endpoint.timeout_s:g} s"
        self._fixed = [
            (ends_at or sent + deadline_s, Failure("deadline", late, may_pass=False)),
            (
                sent + endpoint.timeout_s,
                Failure("timeout", slow, "raise timeout_s or ask less at a time"),
            ),
        ]
        self._patience, self._sent = patience, sent
        self.begun = False
        """Whether anything of a stream has come."""
        self.due = LOST
        """What it means that the last wait took too long."""

    def next(self) -> asyncio.Timeout:
        """Around the next wait."""
        limits = self._fixed
        if self._patience is not None and self.begun:
            idle_s = self._patience.idle_s
            fell = Failure("stalled", f"fell silent for {idle_s:g} s")
            limits = [*limits, (self._now() + idle_s, fell)]
        elif self._patience is not None:
            first_s = self._patience.first_token_s
            mute = Failure("stalled", f"did not begin to reply within {first_s:g} s")
            limits = [*limits, (self._sent + first_s, mute)]
        at, self.due = min(limits, key=lambda limit: limit[0])
        return asyncio.timeout_at(at)
