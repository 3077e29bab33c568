"""Why a model behind an API gave no usable text, and when to ask it again."""

import datetime
import email.utils
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aligner.errors import GenerationError

_RETRIED_STATUS: Final = frozenset({408, 409, 425, 429})
"""And every 5xx: the request itself is right and may succeed later."""

_REFUSES_ALL: Final = {
    401: "does not accept the key; check the variable named in api_key_env",
    403: "does not permit this key; check its rights or api_key_env",
    404: "does not know the model or the route; check model and base_url",
}
"""Statuses that every further request would meet as well, with the remedy."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no usable text; holds nothing that was asked or answered."""

    reason: str
    """In a word: see :func:`failure_reason`."""
    what: str
    """The rest of a sentence whose subject is the endpoint."""
    remedy: str = ""
    may_pass: bool = True
    """Whether another attempt may succeed."""
    concerns_all: bool = False
    """Whether every other request would meet it as well."""
    retry_after_s: float | None = None
    """How long the endpoint asks to be left alone."""
    attempts: int = 1
    """After how many it was given up."""

    def pause_s(self) -> float:
        """Seconds to wait before the next attempt."""
        if self.retry_after_s is not None:
            return self.retry_after_s
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.attempts - 1))
        # Jitter: clients that were turned away together must not come back together.
        return random.uniform(longest / 2, longest)


MALFORMED: Final = Failure("malformed", "replied with no chat completion")
NO_TEXT: Final = Failure("no_text", "replied without text", may_pass=False)
REPORTED: Final = Failure("reported", "reported an error in the middle of its reply")
CUT: Final = Failure("cut", "ended its reply before the text had an end")
TOO_LARGE: Final = Failure("too_large", "replied with far more than was asked for", may_pass=False)
LOST: Final = Failure("connection_lost", "broke the connection")
REFUSED: Final = Failure(
    "refused", "does not answer", "start it or correct base_url", concerns_all=True
)

FORBIDDEN: Final = Failure(
    "forbidden",
    "leads into a network that is not allowed",
    "correct base_url or add the network to access.networks",
    may_pass=False,
    concerns_all=True,
)


def failure_reason(exc: GenerationError) -> str:
    """The short name of what went wrong: ``timeout``, ``stalled``, ``deadline``, ``http_500``,
    ``refused``, ``malformed``, ``no_text``, ``reported``, ``cut``, ``too_large``,
    ``connection_lost``, ``forbidden``, or ``failed`` for what came from elsewhere."""
    reason, colon, _ = str(exc).partition(":")
    return reason if colon and reason.replace("_", "").isalnum() else "failed"


def of_status(status: int, headers: Mapping[str, str]) -> Failure:
    """What a reply with any ``status`` but 200 means."""
    if status in _REFUSES_ALL:
        what, _, remedy = _REFUSES_ALL[status].partition("; ")
        return Failure(f"http_{status}", what, remedy, may_pass=False, concerns_all=True)
    if 300 <= status < 400:
        remedy = "name the address that it points to as base_url"
        return Failure(
            f"http_{status}", "points elsewhere", remedy, may_pass=False, concerns_all=True
        )
    return Failure(
        f"http_{status}",
        f"replied with status {status}",
        may_pass=status in _RETRIED_STATUS or status >= 500,
        retry_after_s=_retry_after_s(headers),
    )


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The ``Retry-After`` header, given in seconds or as a date."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    now = datetime.datetime.now(when.tzinfo)
    return max(0.0, (when - now).total_seconds())
