"""One line per request in the gateway's log: JSON, with the request's id and without its texts."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Final

from aligner_serve.config.observing import ObservingConfig, Price
from aligner_serve.counting import cost, who
from aligner_serve.pipeline import Reply, StageReport
from aligner_serve.telemetry import Answered, Ended

LOGGER: Final = "ray.serve.aligner"
"""Below Serve's own logger: its handlers write JSON into the replica's file, and rotate it."""

_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds, by machines."""


class RequestLog:
    """Writes the lines; implements ``Watcher``."""

    def __init__(self, config: ObservingConfig) -> None:
        """``config`` says which lines hold texts; by default none does."""
        self._config = config
        self._log = logging.getLogger(LOGGER)

    def answered(self, record: Answered) -> None:
        """Write one line; health checks are not worth one while they succeed."""
        if record.route in _QUIET and record.status < 400:
            return
        texts = is_drawn(record.request_id, self._config.log_text_share, salt="log")
        self._log.info("request", extra=line(record, self._config.prices, texts=texts))


def line(record: Answered, prices: Mapping[str, Price], *, texts: bool) -> dict[str, Any]:
    """The fields of ``record``'s line."""
    return {
        "event": "request",
        "request_id": record.request_id,
        "route": record.route,
        "status": record.status,
        "ms": round(record.ms, 1),
        "caller": record.ends[0].caller if record.ends else "",
        "choices": [_choice(one, prices, texts=texts) for one in record.ends],
        # Serve's own fields of these names would take the place of ours. It takes this one out.
        "skip_context_filter": True,
    }


def is_drawn(request_id: str, share: float, *, salt: str) -> bool:
    """Whether a request is in a sample; each ``salt`` draws others."""
    digest = hashlib.sha256(f"{salt}/{request_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _choice(ended: Ended, prices: Mapping[str, Price], *, texts: bool) -> dict[str, Any]:
    end = ended.end
    told = {
        "model": ended.model,
        "outcome": ended.outcome,
        "reason": end.reason,
        "similarity": ended.similarity,
        "stages": [_stage(one, prices) for one in end.stages if one.name],
    }
    if texts:
        told["question"] = ended.question
        if isinstance(end, Reply):
            told |= {"answer": end.answer, "correction": end.text}
    return {key: value for key, value in told.items() if value is not None}


def _stage(stage: StageReport, prices: Mapping[str, Price]) -> dict[str, Any]:
    told = {
        "stage": stage.stage,
        "name": who(stage),
        "version": stage.by if stage.stage == "corrector" else None,
        "round": stage.round,
        "ms": round(stage.ms, 1),
        "prompt_tokens": stage.usage.prompt_tokens,
        "completion_tokens": stage.usage.completion_tokens,
        "kept": stage.savings.kept,
        "usd": cost(stage, prices) or None,
        "reason": stage.reason,
    }
    return {key: value for key, value in told.items() if value not in (None, "")}
