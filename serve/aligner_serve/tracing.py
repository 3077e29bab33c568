"""Traces of some requests for MLflow, off their way: handed over in the background or dropped.

The gateway keeps a bounded number and hands them to a process of its own, which holds MLflow's
client. If that process or MLflow is away, traces are lost and counted, and no request waits.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aligner.errors import AlignerError
from aligner.traces import Span, Trace, TraceSink
from aligner.tracking import TrackingConfig
from aligner_serve.config.observing import ObservingConfig
from aligner_serve.counting import who
from aligner_serve.pipeline import Reply
from aligner_serve.request_log import LOGGER, is_drawn
from aligner_serve.telemetry import Answered, Ended

_MAX_WAITING: Final = 256
_BATCH: Final = 32
_HAND_OVER_S: Final = 30.0
_PATIENCE_S: Final = 15.0
"""How long MLflow is left alone once it was away."""

HandOver = Callable[[list[dict[str, Any]]], Awaitable[int]]
"""Takes dumped traces, tells how many of them were recorded."""

Told = Callable[[str, int], None]
"""Hears how many traces were ``sent`` or ``lost``."""


class Traces:
    """The sample of one gateway replica; implements ``Watcher``."""

    def __init__(
        self, config: ObservingConfig, hand_over: HandOver, told: Told, *, pause_s: float = 1.0
    ) -> None:
        """Nothing is handed over before :meth:`start`, and then every ``pause_s``."""
        self._config = config
        self._hand_over = hand_over
        self._told = told
        self._pause_s = pause_s
        self._waiting: deque[Trace] = deque()
        self._task: asyncio.Task[None] | None = None

    def answered(self, record: Answered) -> None:
        """Keep it for the next batch if it is in the sample and reached a model."""
        drawn = is_drawn(record.request_id, self._config.trace_share, salt="trace")
        if not drawn or not record.ends:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._told("lost", 1)
            return
        self._waiting.append(trace_of(record, texts=self._config.trace_texts))

    def start(self) -> None:
        """From now on, in the running event loop."""
        self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            while self._waiting:
                size = min(_BATCH, len(self._waiting))
                batch = [self._waiting.popleft().model_dump() for _ in range(size)]
                try:
                    async with asyncio.timeout(_HAND_OVER_S):
                        sent = await self._hand_over(batch)
                except TimeoutError:
                    sent = 0
                self._told("sent", sent)
                self._told("lost", len(batch) - sent)


def trace_of(record: Answered, *, texts: bool) -> Trace:
    """``record`` as a trace: its stages stand one after the other, as they ran."""
    started_ns = int(record.started_at * 1e9)
    first = record.ends[0]
    failed = f"http_{record.status}" if record.status >= 400 else None
    if failed is None and first.outcome == "error":
        # A stream that broke off, whose status had been sent.
        failed = first.end.reason
    whole = Span(
        name=f"{first.route} {first.model}",
        kind="CHAIN",
        started_ns=started_ns,
        ended_ns=started_ns + int(record.ms * 1e6),
        attributes={
            "route": record.route,
            "status": record.status,
            "model": first.model,
            "outcome": first.outcome,
            "caller": first.caller,
        },
        given=first.question if texts else None,
        gave=first.end.text if texts and isinstance(first.end, Reply) else None,
        failed=failed,
    )
    calls = [call for one in record.ends for call in _calls(one, started_ns, texts=texts)]
    return Trace(request_id=record.request_id, whole=whole, calls=tuple(calls))


def _calls(ended: Ended, at_ns: int, *, texts: bool) -> list[Span]:
    calls = []
    answer = ended.end.answer if texts and isinstance(ended.end, Reply) else None
    for stage in ended.end.stages:
        # A bare correction has an upstream that nobody asked.
        if not stage.name:
            continue
        until_ns = at_ns + int(stage.ms * 1e6)
        # Texts between two aligners of a stack are not known any more.
        shown = answer is not None and stage.stage == "upstream"
        calls.append(
            Span(
                name=f"{stage.stage} {who(stage)}",
                kind="LLM",
                started_ns=at_ns,
                ended_ns=until_ns,
                attributes={"round": stage.round, "by": stage.by},
                prompt_tokens=stage.usage.prompt_tokens,
                completion_tokens=stage.usage.completion_tokens,
                given=ended.question if shown else None,
                gave=answer if shown else None,
                failed=stage.reason,
            )
        )
        at_ns = until_ns
    return calls


class Tracer:
    """The deployment that holds MLflow's client, 3 s and 0.2 GB of imports, for all gateways."""

    def __init__(self, tracking: dict[str, Any]) -> None:
        """``tracking`` is a dumped :class:`TrackingConfig`; MLflow may be away."""
        self._tracking = TrackingConfig.model_validate(tracking)
        self._sink: TraceSink | None = None
        self._away_until = 0.0

    async def record(self, traces: list[dict[str, Any]]) -> int:
        """How many of ``traces``, dumped :class:`Trace`, were recorded."""
        return await asyncio.to_thread(self._record, [Trace.model_validate(one) for one in traces])

    def _record(self, traces: list[Trace]) -> int:
        if time.monotonic() < self._away_until:
            return 0
        sent = 0
        try:
            self._sink = self._sink or self._connected()
            for trace in traces:
                self._sink.log(trace)
                sent += 1
        except AlignerError as exc:
            self._away_until = time.monotonic() + _PATIENCE_S
            logging.getLogger(LOGGER).warning("traces are lost: %s", exc)
        return sent

    def _connected(self) -> TraceSink:
        from aligner.adapters.mlflow_traces import MlflowTraces
        from aligner.adapters.mlflow_tracker import MlflowTracker

        tracker = MlflowTracker(self._tracking)
        return MlflowTraces(self._tracking.uri, tracker.experiment_id)
