"""What the gateway counts, on Ray's metrics endpoint; a few names, a few label values."""

from dataclasses import dataclass
from typing import Any, Protocol

from aligner_serve.pipeline import Reply, Trouble

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


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


class Telemetry(Protocol):
    """Hears of every request's end."""

    def ended(self, record: Ended) -> None:
        """Count it."""


class Silent:
    """Counts nothing, for tests and for reading the API's description."""

    def ended(self, record: Ended) -> None:
        """Do nothing."""


class RayTelemetry:
    """Counts with ``ray.util.metrics``."""

    def __init__(self) -> None:
        """Register the metrics of this process."""
        from ray.util import metrics

        self._requests: Any = metrics.Counter(
            "aligner_requests",
            "Requests by outcome (corrected, unchanged, passthrough, blocked, error) and reason.",
            ("model", "outcome", "reason"),
        )
        self._seconds: Any = metrics.Histogram(
            "aligner_stage_seconds",
            "Seconds in each stage of a request.",
            list(_SECONDS),
            ("stage", "name"),
        )

    def ended(self, record: Ended) -> None:
        """Count the outcome and the seconds of each stage."""
        end = record.end
        outcome = end.outcome if isinstance(end, Reply) else "error"
        tags = {"model": record.model, "outcome": outcome, "reason": end.reason or ""}
        self._requests.inc(tags=tags)
        for stage in end.stages:
            self._seconds.observe(stage.ms / 1000, tags={"stage": stage.stage, "name": stage.name})
