"""``POST /v1/feedback``: what users say of corrections, kept for the next dataset.

The texts come with the verdict: the gateway keeps no conversations that it could look them up in.
"""

import time
from typing import Annotated, Any, Final, Literal, assert_never

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from aligner.feedback import FeedbackRow, SaidTurn
from aligner_serve import responses
from aligner_serve.callers import Caller
from aligner_serve.config.graph import GraphConfig
from aligner_serve.feedback_store import FeedbackStore
from aligner_serve.wire import PastTurn

_RETRY_AFTER_S: Final = 2


class _Said(BaseModel):
    """What every verdict comes with."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    """Of the reply: its header ``x-request-id``. The latest verdict on a request counts."""
    model: str
    """What was asked for: ``<upstream>+<aligner>``, or an aligner alone."""
    question: Annotated[str, Field(min_length=1)]
    history: list[PastTurn] = []
    answer: Annotated[str, Field(min_length=1)]
    """The upstream's own, ``aligner.original`` of the reply."""
    correction: Annotated[str, Field(min_length=1)]


class Accept(_Said):
    """The correction is good."""

    verdict: Literal["accept"]


class Reject(_Said):
    """The correction is no good."""

    verdict: Literal["reject"]


class Edit(_Said):
    """The correction should have been another."""

    verdict: Literal["edit"]
    edit: Annotated[str, Field(min_length=1)]
    """What it should have been."""


FeedbackRequest = Annotated[Accept | Reject | Edit, Field(discriminator="verdict")]


class FeedbackResponse(BaseModel):
    """Reply of ``/v1/feedback``: the row is on the disk."""

    object: Literal["feedback"] = "feedback"
    request_id: str
    verdict: Literal["accept", "reject", "edit"]


class Feedback:
    """What the route does."""

    def __init__(self, config: GraphConfig, store: FeedbackStore | None) -> None:
        """Without ``store`` nothing is kept, and the route says so."""
        corrected = {name for name, (_, stack) in config.served_models.items() if stack}
        self._models = corrected | set(config.served_aligners)
        self._store = store

    async def take(self, said: Accept | Reject | Edit, *, who: Caller) -> Response:
        """Keep it; the reply comes when it would survive the end of this process."""
        if self._store is None:
            message = "feedback is not kept here; its operator can set feedback.uri"
            return responses.error(404, message, None, code="feedback_off")
        if said.model not in self._models:
            message = f"the model {said.model[:100]!r} corrects nothing here"
            return responses.error(404, message, "model", code="model_not_found")
        if not who.may_use(said.model):
            return responses.not_allowed(said.model)
        match await self._store.keep(_row(said, who.name)):
            case "kept":
                body = FeedbackResponse(request_id=said.request_id, verdict=said.verdict)
                return JSONResponse(body.model_dump())
            case "busy":
                return _later(429, "too much feedback at once", "feedback_busy")
            case "away":
                return _later(503, "feedback cannot be kept at the moment", "feedback_away")
            case "full":
                return responses.error(
                    507, "there is no room for more feedback", None, code="feedback_full"
                )
            case unreachable:
                assert_never(unreachable)


def _row(said: Accept | Reject | Edit, caller: str) -> FeedbackRow:
    fields: dict[str, Any] = said.model_dump(exclude={"history"})
    history = tuple(SaidTurn(role=turn.role, text=turn.content) for turn in said.history)
    return FeedbackRow(**fields, history=history, caller=caller, at_ms=time.time_ns() // 1_000_000)


def _later(status: int, message: str, code: str) -> JSONResponse:
    response = responses.error(status, f"{message}; send it again later", None, code=code)
    response.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return response
