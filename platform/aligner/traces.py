"""What a served request went through, as a tree of spans; the MLflow adapter shows it."""

import hashlib
from typing import Literal, Protocol

from pydantic import Field

from aligner.config import StrictModel

SpanKind = Literal["CHAIN", "LLM"]
"""MLflow's words: a request as a whole, and one call of a model."""


class Span(StrictModel):
    """One call."""

    name: str
    kind: SpanKind
    started_ns: int
    """Unix time."""

    ended_ns: int
    attributes: dict[str, str | int | float] = Field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    given: str | None = None
    """What it was given; only where texts may be shown."""

    gave: str | None = None
    """What it gave; likewise."""

    failed: str | None = None
    """Why, in a word, where it gave nothing usable."""


class Trace(StrictModel):
    """One request: the span around all of it, and those inside."""

    request_id: str
    whole: Span
    calls: tuple[Span, ...] = ()

    @property
    def digest(self) -> str:
        """32 hex digits; the same request has the same trace, however often it is sent."""
        seed = f"{self.request_id}/{self.whole.started_ns}"
        return hashlib.sha256(seed.encode()).hexdigest()[:32]


class TraceSink(Protocol):
    """Where traces are shown."""

    def log(self, trace: Trace) -> None:
        """Record one.

        Raises:
            TrackingError: The server does not take it.
        """
