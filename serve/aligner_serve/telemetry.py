"""What is known of a request when it has ended, and who hears of it.

Two things end: each choice, with an outcome, and the HTTP request around all of them. Nobody who
hears of them may keep the request waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aligner_serve.pipeline import Reply, Trouble


@dataclass(frozen=True, slots=True)
class Ended:
    """A request, or one of its choices, at its end."""

    request_id: str
    route: str
    """``chat``, ``completions`` or ``corrections``."""
    model: str
    """The served name that was asked for."""
    caller: str
    """Name of the key, empty without one."""
    end: Reply | Trouble
    similarity: float | None = None
    """Of answer and correction, where it was computed."""
    question: str = ""
    """What was asked; several prompts of one request have a blank line between."""

    @property
    def outcome(self) -> str:
        """``corrected``, ``unchanged``, ``passthrough``, ``blocked`` or ``error``."""
        return self.end.outcome if isinstance(self.end, Reply) else "error"


@dataclass(frozen=True, slots=True)
class Answered:
    """An HTTP request after its last byte."""

    request_id: str
    route: str
    """Path of a route of the API; ``other`` for every other one."""
    status: int
    """499 where the client went away before the end."""
    started_at: float
    """Unix time in seconds."""
    ms: float
    ends: tuple[Ended, ...] = ()
    """Its choices that came to an end; none for requests that were refused."""


class Telemetry(Protocol):
    """Hears of every choice's end."""

    def ended(self, record: Ended) -> None:
        """Count it."""


class Watcher(Protocol):
    """Hears of every HTTP request's end."""

    def answered(self, record: Answered) -> None:
        """Count it, write it down, pass it on."""


class Silent:
    """Counts nothing, for tests and for reading the API's description."""

    def ended(self, record: Ended) -> None:
        """Do nothing."""

    def answered(self, record: Answered) -> None:
        """Do nothing."""


class Watchers:
    """Several who hear of the same."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        """In the order in which they hear of it."""
        self._watchers = tuple(watchers)

    def answered(self, record: Answered) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.answered(record)
