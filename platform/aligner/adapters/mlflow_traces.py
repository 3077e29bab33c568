"""MLflow as :class:`aligner.traces.TraceSink`: what stands under "Traces" of an experiment.

MLflow's own tracing would follow the calls of the process that it runs in. Ours are made of what is
known afterwards, in another process, so the entities are put together here.
"""

import base64
import json
from typing import Any, Final

from aligner.traces import Span, Trace
from aligner.tracking_address import redacted, require_answer, sentences

_PREVIEW_CHARS: Final = 200
_ROOT: Final = 1


class MlflowTraces:
    """The traces of one experiment; implements :class:`aligner.traces.TraceSink`."""

    def __init__(self, uri: str, experiment_id: str) -> None:
        """``uri`` is MLflow's tracking URI."""
        from mlflow.tracing.client import TracingClient

        self._address, self._uri = uri, redacted(uri)
        self._experiment_id = experiment_id
        with sentences(self._uri):
            self._client = TracingClient(uri)

    def require_answer(self) -> None:
        """Look whether the server can be reached, within seconds.

        Raises:
            TrackingAway: Not at the moment.
        """
        require_answer(self._address)

    def log(self, trace: Trace) -> None:
        """Record one, with its spans; one that comes again replaces the first."""
        with sentences(self._uri):
            self._client.start_trace(self._info(trace))
            self._client.log_spans(self._experiment_id, _spans(trace))

    def _info(self, trace: Trace) -> Any:
        from mlflow.entities.trace_info import TraceInfo
        from mlflow.entities.trace_location import TraceLocation
        from mlflow.entities.trace_state import TraceState

        whole = trace.whole
        return TraceInfo(
            trace_id=_trace_id(trace),
            trace_location=TraceLocation.from_experiment_id(self._experiment_id),
            request_time=whole.started_ns // 1_000_000,
            execution_duration=(whole.ended_ns - whole.started_ns) // 1_000_000,
            state=TraceState.ERROR if whole.failed else TraceState.OK,
            client_request_id=trace.request_id,
            request_preview=_preview(whole.given),
            response_preview=_preview(whole.gave),
            trace_metadata={"mlflow.trace_schema.version": "3"},
            tags={
                "mlflow.traceName": whole.name,
                **{key: str(value) for key, value in whole.attributes.items()},
            },
        )


def _spans(trace: Trace) -> list[Any]:
    from mlflow.entities.span import Span as MlflowSpan

    numbered = enumerate((trace.whole, *trace.calls), start=_ROOT)
    return [MlflowSpan.from_dict(_fields(trace, number, span)) for number, span in numbered]


def _fields(trace: Trace, number: int, span: Span) -> dict[str, Any]:
    """``span`` as MLflow writes it into JSON: ids in base64, attributes as JSON."""
    attributes: dict[str, Any] = {
        "mlflow.traceRequestId": _trace_id(trace),
        "mlflow.spanType": span.kind,
        **span.attributes,
    }
    if span.given is not None:
        attributes["mlflow.spanInputs"] = span.given
    if span.gave is not None:
        attributes["mlflow.spanOutputs"] = span.gave
    if tokens := span.prompt_tokens + span.completion_tokens:
        attributes["mlflow.chat.tokenUsage"] = {
            "input_tokens": span.prompt_tokens,
            "output_tokens": span.completion_tokens,
            "total_tokens": tokens,
        }
    return {
        "trace_id": _base64(bytes.fromhex(trace.digest)),
        "span_id": _base64(number.to_bytes(8, "big")),
        "parent_span_id": "" if number == _ROOT else _base64(_ROOT.to_bytes(8, "big")),
        "name": span.name,
        "start_time_unix_nano": span.started_ns,
        "end_time_unix_nano": span.ended_ns,
        "status": {"code": "ERROR" if span.failed else "OK", "message": span.failed or ""},
        "attributes": {key: json.dumps(value) for key, value in attributes.items()},
        "events": [],
    }


def _trace_id(trace: Trace) -> str:
    return f"tr-{trace.digest}"


def _preview(text: str | None) -> str | None:
    return None if text is None else text[:_PREVIEW_CHARS]


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
