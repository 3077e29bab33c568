from pathlib import Path
from typing import Any

from aligner.adapters.mlflow_traces import MlflowTraces
from aligner.adapters.mlflow_tracker import MlflowTracker
from aligner.traces import Span, Trace
from aligner.tracking import TrackingConfig

BEGUN_NS = 1_800_000_000_000_000_000


def span(name: str, ms: int, **changes: Any) -> Span:
    ended = BEGUN_NS + ms * 1_000_000
    return Span(name=name, kind="LLM", started_ns=BEGUN_NS, ended_ns=ended, **changes)


def test_a_failed_request_is_shown_as_one_with_its_texts_where_there_are_any(
    tmp_path: Path,
) -> None:
    from mlflow.tracing.client import TracingClient

    config = TrackingConfig(uri=f"sqlite:///{tmp_path / 'm.db'}", experiment="served")
    experiment = MlflowTracker(config).experiment_id
    whole = span("chat", 1500, attributes={"status": 502}, given="Why? " * 100, failed="http_502")
    calls = (span("upstream", 500, gave="Dunno."), span("corrector", 900, failed="too_long"))
    MlflowTraces(config.uri, experiment).log(Trace(request_id="r-1", whole=whole, calls=calls))

    (shown,) = TracingClient(config.uri).search_traces(locations=[experiment])
    assert (shown.info.client_request_id, str(shown.info.state)) == ("r-1", "ERROR")
    assert (shown.info.request_time, shown.info.execution_duration) == (BEGUN_NS // 10**6, 1500)
    assert len(shown.info.request_preview) <= 200
    root, upstream, corrector = shown.data.spans
    assert (root.inputs, root.attributes["status"]) == ("Why? " * 100, 502)
    assert upstream.outputs == "Dunno."
    assert (corrector.status.status_code.value, corrector.status.description) == (
        "ERROR",
        "too_long",
    )


def test_a_request_has_one_trace_however_often_it_is_sent() -> None:
    one, same = (Trace(request_id="r", whole=span("chat", 1)) for _ in range(2))
    other = Trace(request_id="s", whole=span("chat", 1))
    assert one.digest == same.digest != other.digest
