"""Seeing in one replica of the gateway: metrics, log and traces, put together from its config."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from aligner.feedback import FeedbackRow
from aligner_serve.ahead import ReadingTold
from aligner_serve.breaker import Breaker, State
from aligner_serve.config.feedback import FeedbackConfig
from aligner_serve.config.graph import GraphConfig
from aligner_serve.counting import Gauges, RayMetrics
from aligner_serve.feedback_store import FeedbackFiles, Kept
from aligner_serve.metrics_page import MetricsPage, ray_agents
from aligner_serve.request_log import RequestLog
from aligner_serve.seeing import Seeing
from aligner_serve.telemetry import Telemetry, Watcher, Watchers
from aligner_serve.tracing import Traces
from aligner_serve.watching import Gathering, Ongoing

_STATES: tuple[State, ...] = ("closed", "open", "half_open")


class Observing:
    """All that hears of this replica's requests."""

    def __init__(
        self, config: GraphConfig, breakers: Mapping[str, Breaker], tracer: Any | None
    ) -> None:
        """``tracer`` is Serve's handle of the deployment that sends traces, if there is one."""
        metrics, ongoing = RayMetrics(config.observing.prices), Ongoing()
        watchers: list[Watcher] = [metrics, RequestLog(config.observing)]
        self._traces: Traces | None = None
        if tracer is not None:
            self._traces = Traces(config.observing, partial(_hand_over, tracer), metrics.traced)
            watchers.append(self._traces)
        self._gauges = Gauges()
        self._gauges.add(
            "aligner_in_flight",
            "Requests that the gateway works on.",
            ("route",),
            lambda: {(route,): float(now) for route, now in ongoing.by_route.items()},
        )
        self._gauges.add(
            "aligner_breaker",
            "Replicas of the gateway whose breaker of an upstream is in this state.",
            ("upstream", "state"),
            lambda: {
                (name, state): float(breaker.state == state)
                for name, breaker in breakers.items()
                for state in _STATES
            },
        )
        self.telemetry: Telemetry = Gathering(metrics)
        self.read_ahead: ReadingTold = metrics.read_ahead
        self.seeing = Seeing(
            watcher=Watchers(watchers),
            ongoing=ongoing,
            metrics=MetricsPage(ray_agents).text,
            feedback=None if config.feedback is None else _Counted(config.feedback, metrics),
        )

    def start(self) -> None:
        """From now on, in the running event loop."""
        self._gauges.start()
        if self._traces is not None:
            self._traces.start()


class _Counted:
    """The feedback of this replica, each piece counted with what became of it."""

    def __init__(self, config: FeedbackConfig, metrics: RayMetrics) -> None:
        self._files = FeedbackFiles(config)
        self._metrics = metrics

    async def keep(self, row: FeedbackRow) -> Kept:
        """See :class:`FeedbackStore`."""
        kept = await self._files.keep(row)
        self._metrics.fed(row.verdict, kept)
        return kept


async def _hand_over(tracer: Any, batch: list[dict[str, Any]]) -> int:
    """To the deployment that sends traces; one that is away takes none."""
    try:
        return int(await tracer.record.remote(batch))
    except (RayError, RayServeException):
        return 0
