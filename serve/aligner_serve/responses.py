"""How the pipeline's ends look in HTTP: replies with their outcome, OpenAI's error objects."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from fastapi.responses import JSONResponse

from aligner_serve import replies
from aligner_serve.pieces import BUSY, TIMEOUT
from aligner_serve.pipeline import Reply, StageReport, Trouble

_RETRY_AFTER_S: Final = 1.0
_AWAY: Final = frozenset({"breaker_open", "unavailable"})
"""Reasons that may pass by themselves: a client should come back."""

Body: TypeAlias = replies.ChatResponse | replies.CompletionResponse | replies.CorrectionResponse


def reply(body: Body, end: Reply) -> JSONResponse:
    """``body`` with the outcome of ``end`` in its headers."""
    content: dict[str, Any] = body.model_dump(mode="json")
    # Fields of OpenAI's that are null stay, as its clients expect; our own are left out.
    content["aligner"] = body.aligner.model_dump(mode="json", exclude_none=True)
    if isinstance(body, replies.ChatResponse | replies.CompletionResponse):
        choices: Sequence[replies.AnyChoice] = body.choices
        for written, choice in zip(content["choices"], choices, strict=True):
            written["aligner"] = choice.aligner.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, headers=headers(end, body.aligner.version))


def headers(end: Reply, version: str | None) -> dict[str, str]:
    """What is known of ``end``, for those who do not read the body."""
    told = {
        replies.OUTCOME_HEADER: end.outcome,
        replies.REASON_HEADER: end.reason,
        replies.VERSION_HEADER: version,
        "Server-Timing": _timing(end.stages),
    }
    return {name: value for name, value in told.items() if value}


def _timing(stages: Sequence[StageReport]) -> str:
    return ", ".join(part for stage in stages for part in _timed(stage))


def _timed(stage: StageReport) -> Iterator[str]:
    """What a stage took; of a corrector that has read a copy first, what that took and brought."""
    yield f"{stage.stage};dur={stage.ms:.1f}"
    savings = stage.savings
    if savings.kept is not None:
        found = "kept" if savings.kept else "doubted"
        yield f"keep;dur={savings.keep_ms:.1f};desc={found}"
    if savings.first_token_ms is not None:
        yield f"first-token;dur={savings.first_token_ms:.1f}"


def trouble(end: Trouble) -> JSONResponse:
    """An error object with its status."""
    status = status_of(end)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(math.ceil(end.retry_after_s or _RETRY_AFTER_S))
    return JSONResponse(trouble_body(end).model_dump(), status_code=status, headers=headers)


def status_of(end: Trouble) -> int:
    """The HTTP status of ``end``."""
    if end.reason in (BUSY, "http_429"):
        return 429
    if end.reason in (TIMEOUT, "deadline", "stalled"):
        return 504
    return 503 if end.reason in _AWAY else 502


def trouble_body(end: Trouble) -> replies.ErrorResponse:
    """An error object."""
    busy = status_of(end) == 429
    failed = "has too much to do; come back later" if busy else f"failed ({end.reason})"
    return replies.ErrorResponse(
        error=replies.ErrorDetail(
            message=f"the {end.stage} {failed}",
            type="rate_limit_error" if busy else "server_error",
            code=f"{end.stage}_{end.reason}",
        )
    )


def fault_body() -> replies.ErrorResponse:
    """An error object for a fault of our own, of which clients learn no more."""
    return replies.ErrorResponse(
        error=replies.ErrorDetail(
            message="the gateway failed; see its log", type="server_error", code="internal_error"
        )
    )


def not_allowed(model: str) -> JSONResponse:
    """An error object for a model that is not the caller's, whether or not there is one."""
    message = f"the model {model[:100]!r} is not among those of this API key"
    detail = replies.ErrorDetail(
        message=message, type="permission_error", param="model", code="model_not_allowed"
    )
    return JSONResponse(replies.ErrorResponse(error=detail).model_dump(), status_code=403)


def error(
    status: int, message: str, param: str | None, *, code: str = "invalid_request"
) -> JSONResponse:
    """An error object for a request that went no further."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    detail = replies.ErrorDetail(message=message, type=kind, param=param, code=code)
    return JSONResponse(replies.ErrorResponse(error=detail).model_dump(), status_code=status)
