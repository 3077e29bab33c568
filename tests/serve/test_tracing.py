import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from seen import SeenGateway

from aligner.traces import Trace
from aligner.tracking import TrackingConfig
from aligner_serve.config.observing import ObservingConfig
from aligner_serve.telemetry import Answered
from aligner_serve.tracing import Tracer, Traces, trace_of


def answered(model: str = "iron+fixer", **changes: Any) -> Answered:
    seen = SeenGateway()
    seen.chat(model, **changes)
    return seen.told.last


def handed_over(
    records: list[Answered],
    *,
    takes: int | None = None,
    wanted: int | None = None,
    **settings: Any,
) -> Any:
    """What is handed over of ``records``, and what is counted.

    ``takes`` is how many of each batch the receiver takes, ``wanted`` how many are waited for.
    """
    wanted = len(records) if wanted is None else wanted
    got: list[Trace] = []
    told: Counter[str] = Counter()

    async def receive(batch: list[dict[str, Any]]) -> int:
        got.extend(Trace.model_validate(one) for one in batch)
        return len(batch) if takes is None else takes

    def count(result: str, amount: int) -> None:
        told[result] += amount

    async def run() -> None:
        traces = Traces(ObservingConfig(**settings), receive, count, pause_s=0.01)
        for record in records:
            traces.answered(record)
        traces.start()
        deadline = time.monotonic() + 60
        while sum(told.values()) < wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    return got, dict(told)


def test_a_trace_spans_the_request_and_each_of_its_stages() -> None:
    record = answered("iron+fixer+polite")
    trace = trace_of(record, texts=False)
    assert trace.request_id == record.request_id
    assert [call.name for call in trace.calls] == [
        "upstream iron",
        "corrector fixer",
        "corrector polite",
    ]
    assert trace.whole.attributes["outcome"] == "corrected"
    assert trace.calls[1].attributes["by"] == "models:/fixer/3"
    assert trace.calls[0].prompt_tokens == 5
    for before, after in zip(trace.calls, trace.calls[1:], strict=False):
        assert before.ended_ns == after.started_ns
    assert trace.whole.started_ns <= trace.calls[0].started_ns
    assert trace.calls[-1].ended_ns <= trace.whole.ended_ns


@pytest.mark.parametrize(
    ("model", "call", "reason", "failed"),
    [
        ("iron+broken", 1, "too_long", None),
        ("dead+fixer", 0, "refused", "http_502"),
    ],
)
def test_what_failed_is_told(model: str, call: int, reason: str, failed: str | None) -> None:
    trace = trace_of(answered(model), texts=False)
    assert trace.calls[call].failed == reason
    assert trace.whole.failed == failed


def test_texts_are_in_traces_only_where_that_is_asked_for() -> None:
    record = answered(messages=[{"role": "user", "content": "CANARY"}])
    assert "CANARY" not in trace_of(record, texts=False).model_dump_json()
    shown = trace_of(record, texts=True)
    assert shown.whole.given == "CANARY"
    assert shown.whole.gave is not None and shown.whole.gave.startswith("All know")
    assert shown.calls[0].gave is not None and shown.calls[0].gave.startswith("Some say")


def test_the_sample_is_handed_over_and_counted() -> None:
    got, told = handed_over([answered() for _ in range(3)], trace_share=1.0)
    assert len(got) == 3
    assert told == {"sent": 3, "lost": 0}


def test_what_is_not_taken_is_counted_as_lost() -> None:
    _, told = handed_over([answered() for _ in range(3)], takes=1, trace_share=1.0)
    assert told == {"sent": 1, "lost": 2}


def test_no_more_than_so_many_wait() -> None:
    got, told = handed_over([answered()] * 300, trace_share=1.0)
    assert (len(got), told["lost"]) == (256, 44)


def test_requests_outside_the_sample_and_refused_ones_leave_no_trace() -> None:
    refused, asked = answered("nobody"), answered()
    got, told = handed_over([refused, asked], wanted=1, trace_share=1.0)
    assert [trace.request_id for trace in got] == [asked.request_id]
    assert told == {"sent": 1, "lost": 0}
    assert handed_over([asked], wanted=0, trace_share=0.0) == ([], {})


def test_mlflow_shows_a_trace_with_both_stages(tmp_path: Path) -> None:
    config = TrackingConfig(uri=f"sqlite:///{tmp_path / 'm.db'}", experiment="served")
    record = answered()
    dumped = trace_of(record, texts=False).model_dump()
    # One that is sent again is shown once.
    assert asyncio.run(Tracer(config.model_dump()).record([dumped, dumped])) == 2
    (shown,) = traces_in(config)
    assert shown.info.client_request_id == record.request_id
    assert shown.info.tags["mlflow.traceName"] == "chat iron+fixer"
    assert shown.info.tags["outcome"] == "corrected"
    root, *calls = shown.data.spans
    assert [call.name for call in calls] == ["upstream iron", "corrector fixer"]
    assert {call.parent_id for call in calls} == {root.span_id}
    assert shown.info.token_usage["total_tokens"] == 5 + 7 + 11 + 7


def test_mlflow_away_loses_traces_and_is_left_alone_for_a_while(tmp_path: Path) -> None:
    in_the_way = tmp_path / "folder"
    in_the_way.touch()
    config = TrackingConfig(uri=f"sqlite:///{in_the_way / 'm.db'}")
    tracer = Tracer(config.model_dump())
    dumped = trace_of(answered(), texts=False).model_dump()
    assert asyncio.run(tracer.record([dumped])) == 0
    in_the_way.unlink()
    # It would take them now, if it were asked.
    assert asyncio.run(tracer.record([dumped])) == 0


def traces_in(config: TrackingConfig) -> Any:
    from mlflow.tracing.client import TracingClient
    from mlflow.tracking import MlflowClient

    experiment = MlflowClient(config.uri).get_experiment_by_name(config.experiment)
    return TracingClient(config.uri).search_traces(locations=[experiment.experiment_id])
