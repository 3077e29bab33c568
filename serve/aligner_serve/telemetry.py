"""What the gateway counts, on Ray's metrics endpoint; a few names, a few label values."""

from typing import Any, Protocol

from aligner_serve.pipeline import Reply, Trouble

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Telemetry(Protocol):
    """Hears of every request's end."""

    def ended(self, end: Reply | Trouble, *, upstream: str) -> None:
        """Count ``end``; ``upstream`` is empty for a bare correction."""


class Silent:
    """Counts nothing, for tests and for reading the API's description."""

    def ended(self, end: Reply | Trouble, *, upstream: str) -> None:
        """Do nothing."""


class RayTelemetry:
    """Counts with ``ray.util.metrics``."""

    def __init__(self) -> None:
        """Register the metrics of this process."""
        from ray.util import metrics

        self._requests: Any = metrics.Counter(
            "aligner_requests",
            "Requests by outcome (corrected, unchanged, passthrough, blocked, error) and reason.",
            ("upstream", "outcome", "reason"),
        )
        self._seconds: Any = metrics.Histogram(
            "aligner_stage_seconds",
            "Seconds in each stage of a request.",
            list(_SECONDS),
            ("upstream", "stage"),
        )

    def ended(self, end: Reply | Trouble, *, upstream: str) -> None:
        """Count the outcome and the seconds of each stage."""
        outcome = end.outcome if isinstance(end, Reply) else "error"
        tags = {"upstream": upstream, "outcome": outcome, "reason": end.reason or ""}
        self._requests.inc(tags=tags)
        for stage, seconds in end.seconds.items():
            self._seconds.observe(seconds, tags={"upstream": upstream, "stage": stage})
