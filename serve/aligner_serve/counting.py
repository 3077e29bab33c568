"""What the gateway counts, through Ray's metrics; a few names, a few label values.

Ray's agents add up the counters of each machine, also those of processes that are gone; gauges
are told again and again, or they are forgotten.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aligner_serve.config.observing import Price
from aligner_serve.pieces import Reading
from aligner_serve.pipeline import Reply, StageReport
from aligner_serve.telemetry import Answered, Ended

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_RATIOS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_REFRESH_S: Final = 1.0
"""Ray forgets a gauge after two of its reports, which come every second or less often."""

Now = Callable[[], Mapping[tuple[str, ...], float]]
"""The values at this moment, by the gauge's labels."""


class RayMetrics:
    """Counts with ``ray.util.metrics``; implements ``Telemetry`` and ``Watcher``."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        """Register the metrics of this process; ``prices`` are by upstream or aligner."""
        from ray.util import metrics

        self._prices = prices
        counter, histogram = metrics.Counter, metrics.Histogram
        self._choices: Any = counter(
            "aligner_requests",
            "Choices by outcome (corrected, unchanged, passthrough, blocked, error) and reason.",
            ("model", "outcome", "reason"),
        )
        self._edits: Any = histogram(
            "aligner_edit_ratio",
            "Share of words that a correction changes; 0 is a copy.",
            list(_RATIOS),
            ("model",),
        )
        self._stage_seconds: Any = histogram(
            "aligner_stage_seconds",
            "Seconds in each stage of a request.",
            list(_SECONDS),
            ("stage", "name"),
        )
        self._stage_failures: Any = counter(
            "aligner_stage_failures",
            "Stages that gave nothing usable, by reason.",
            ("stage", "name", "reason"),
        )
        self._tokens: Any = counter(
            "aligner_tokens", "Tokens read (prompt) and written.", ("stage", "name", "kind")
        )
        self._usd: Any = counter(
            "aligner_usd", "What the tokens cost, where a price is set.", ("stage", "name")
        )
        self._saved: Any = counter(
            "aligner_savings",
            "What correctors had to do and had not: kept and doubted answers, tokens trusted, "
            "cached and decoded, and the steps that decoded them.",
            ("name", "kind"),
        )
        self._first_token_seconds: Any = histogram(
            "aligner_first_token_seconds",
            "Seconds from a corrector's call to its first token.",
            list(_SECONDS),
            ("name",),
        )
        self._readings: Any = counter(
            "aligner_readings_ahead",
            "Readings of answers that were still being written, by result (read, nothing_new, "
            "loaded, failed, dropped).",
            ("name", "result"),
        )
        self._read_ahead: Any = counter(
            "aligner_read_ahead_tokens", "Tokens of prompts that were read ahead.", ("name",)
        )
        self._http: Any = counter(
            "aligner_http_requests",
            "HTTP requests; 499 are those whose client went away.",
            ("route", "status"),
        )
        self._http_seconds: Any = histogram(
            "aligner_http_seconds",
            "Seconds from a request's first byte to its reply's last.",
            list(_SECONDS),
            ("route",),
        )
        self._traces: Any = counter("aligner_traces", "Traces, sent or lost.", ("result",))
        self._feedback: Any = counter(
            "aligner_feedback",
            "Feedback by verdict, and what became of it (kept, busy, full, away).",
            ("verdict", "result"),
        )

    def ended(self, record: Ended) -> None:
        """Count the outcome, and what each stage took."""
        end = record.end
        tags = {"model": record.model, "outcome": record.outcome, "reason": end.reason or ""}
        self._choices.inc(tags=tags)
        if isinstance(end, Reply) and record.similarity is not None and end.reason is None:
            self._edits.observe(1.0 - record.similarity, tags={"model": record.model})
        for stage in end.stages:
            # A bare correction has an upstream that nobody asked.
            if stage.name:
                self._stage(stage)

    def answered(self, record: Answered) -> None:
        """Count the request as HTTP sees it."""
        self._http.inc(tags={"route": record.route, "status": str(record.status)})
        self._http_seconds.observe(record.ms / 1000, tags={"route": record.route})

    def traced(self, result: str, traces: int) -> None:
        """Count traces that were ``sent`` to MLflow, or ``lost``."""
        if traces:
            self._traces.inc(traces, tags={"result": result})

    def read_ahead(self, name: str, reading: Reading) -> None:
        """Count what the aligner ``name`` has read before there was anything to correct."""
        self._readings.inc(tags={"name": name, "result": reading.result})
        if reading.computed:
            self._read_ahead.inc(reading.computed, tags={"name": name})

    def fed(self, verdict: str, result: str) -> None:
        """Count a piece of feedback and what became of it."""
        self._feedback.inc(tags={"verdict": verdict, "result": result})

    def _stage(self, stage: StageReport) -> None:
        tags = {"stage": stage.stage, "name": who(stage)}
        self._stage_seconds.observe(stage.ms / 1000, tags=tags)
        if stage.reason is not None:
            self._stage_failures.inc(tags={**tags, "reason": stage.reason})
        usage = stage.usage
        for kind, tokens in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
        ):
            if tokens:
                self._tokens.inc(tokens, tags={**tags, "kind": kind})
        if stage.stage == "corrector":
            self._savings(stage)
        if usd := cost(stage, self._prices):
            self._usd.inc(usd, tags=tags)

    def _savings(self, stage: StageReport) -> None:
        savings = stage.savings
        for kind, amount in (
            ("kept_answers", savings.kept is True),
            ("doubted_answers", savings.kept is False),
            ("trusted_tokens", savings.trusted_tokens),
            ("cached_tokens", savings.cached_tokens),
            ("decoded_tokens", savings.decoded_tokens),
            ("decode_steps", savings.decode_steps),
        ):
            if amount:
                self._saved.inc(float(amount), tags={"name": stage.name, "kind": kind})
        if savings.first_token_ms is not None:
            self._first_token_seconds.observe(
                savings.first_token_ms / 1000, tags={"name": stage.name}
            )


class RolloutCounts:
    """Counts where aliases are followed, in the process that follows them."""

    def __init__(self) -> None:
        """Register the metric of this process."""
        from ray.util import metrics

        self._rollouts: Any = metrics.Counter(
            "aligner_rollouts",
            "Versions that an alias came to name, by what became of them (served, refused, "
            "taken_back) and the kind of error.",
            ("name", "result", "reason"),
        )

    def __call__(self, seat: str, result: str, reason: str) -> None:
        """Count one; see :data:`aligner_serve.rollout.Told`."""
        self._rollouts.inc(tags={"name": seat, "result": result, "reason": reason})


def who(stage: StageReport) -> str:
    """Who did ``stage``: the upstream that answered, which may be a fallback, or the aligner."""
    return stage.by if stage.stage == "upstream" and stage.by else stage.name


def cost(stage: StageReport, prices: Mapping[str, Price]) -> float:
    """USD; 0 where no price is set."""
    price = prices.get(who(stage))
    if price is None:
        return 0.0
    usage = stage.usage
    return price.usd(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


class Gauges:
    """What is neither counted nor measured but looked at, again and again."""

    def __init__(self) -> None:
        self._gauges: list[tuple[Any, tuple[str, ...], Now]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, name: str, description: str, labels: tuple[str, ...], now: Now) -> None:
        """Tell what ``now`` gives as the gauge ``name``."""
        from ray.util import metrics

        self._gauges.append((metrics.Gauge(name, description, labels), labels, now))

    def start(self) -> None:
        """From now on, in the running event loop."""
        self._task = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        while True:
            for gauge, labels, now in self._gauges:
                for values, amount in now().items():
                    gauge.set(amount, tags=dict(zip(labels, values, strict=True)))
            await asyncio.sleep(_REFRESH_S)
