"""What the HTTP API gives: OpenAI's replies with one field more, and corrections.

Free of ray, torch and fastapi.
"""

import time
import uuid
from typing import Final, Literal

from pydantic import BaseModel

from aligner_serve.pieces import Savings, Usage
from aligner_serve.pipeline import Outcome, Reply, StageReport

OUTCOME_HEADER: Final = "x-aligner-outcome"
REASON_HEADER: Final = "x-aligner-reason"
VERSION_HEADER: Final = "x-aligner-version"
REQUEST_ID_HEADER: Final = "x-request-id"

REFUSAL: Final = "The answer was withheld because it could not be corrected."

FinishReason = Literal["stop", "length", "content_filter"]


class UsageReport(BaseModel):
    """Tokens, of all stages together or of one."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SavingsInfo(BaseModel):
    """What an aligner did not have to do."""

    kept: bool | None = None
    """Whether the answer was found good without decoding; left out where nobody looked."""
    keep_score: float | None = None
    keep_milliseconds: float = 0.0
    trusted_tokens: int = 0
    """Of the answer's beginning, which were given instead of decoded."""
    decoded_tokens: int = 0
    decode_steps: int = 0
    """Of the engine; more tokens than steps were guessed ahead."""
    cached_tokens: int = 0
    """Of the prompt, read before."""
    first_token_milliseconds: float | None = None


class StageInfo(BaseModel):
    """One call of an upstream or an aligner."""

    stage: Literal["upstream", "corrector"]
    name: str
    round: int
    milliseconds: float
    usage: UsageReport
    version: str | None = None
    """Of the aligner."""
    answered_by: str | None = None
    """The upstream, where another one took its place."""
    reason: str | None = None
    """Why it failed."""
    savings: SavingsInfo | None = None
    """Of an aligner that has corrected."""


class Edits(BaseModel):
    """How far the correction is from the answer."""

    words_removed: int
    words_added: int


class AlignerReport(BaseModel):
    """What was done to the answer; the field ``aligner`` of every reply."""

    outcome: Outcome
    reason: str | None = None
    """Why there is no correction: ``timeout``, ``too_long``, ``length``, ``empty``, ..."""
    upstream: str | None = None
    """Who answered."""
    version: str | None = None
    """Of the aligner that corrected last."""
    similarity: float | None = None
    """Of answer and correction, over words, in [0, 1]; left out for very long texts."""
    edits: Edits | None = None
    stages: list[StageInfo] = []
    original: str | None = None
    """The upstream's own answer, where it was asked for and may be shown."""


class ReplyMessage(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None


class AnyChoice(BaseModel):
    """One answer, in whatever form."""

    index: int
    logprobs: None = None
    finish_reason: FinishReason
    aligner: AlignerReport
    """The reply's own field ``aligner`` is that of the first choice."""


class Choice(AnyChoice):
    """One answer of a chat."""

    message: ReplyMessage


class ChatResponse(BaseModel):
    """Reply of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageReport
    aligner: AlignerReport


class TextChoice(AnyChoice):
    """One answer as plain text."""

    text: str


class CompletionResponse(BaseModel):
    """Reply of ``/v1/completions``."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageReport
    aligner: AlignerReport


class CorrectionResponse(BaseModel):
    """Reply of ``/v1/corrections``."""

    id: str
    object: Literal["correction"] = "correction"
    created: int
    model: str
    correction: str | None
    """The answer itself where the outcome is ``passthrough``; nothing where it is ``blocked``."""
    outcome: Outcome
    usage: UsageReport
    aligner: AlignerReport


class CorrectionList(BaseModel):
    """Reply of ``/v1/corrections/batch``: one entry for each pair, in order."""

    object: Literal["list"] = "list"
    data: list["CorrectionResponse | ErrorResponse"]
    usage: UsageReport


class ModelCard(BaseModel):
    """One served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["aligner"] = "aligner"


class ModelList(BaseModel):
    """Reply of ``/v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Reply of ``/healthz`` and ``/readyz``."""

    status: Literal["ok", "unavailable"]
    correctors: dict[str, bool] = {}
    """Whether each of them answers; told by ``/readyz`` alone."""


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """Reply of every request that fails."""

    error: ErrorDetail


def new_id(prefix: str) -> str:
    """A fresh id."""
    return f"{prefix}-{uuid.uuid4().hex}"


def now() -> int:
    """Unix time in seconds."""
    return int(time.time())


def usage_report(usage: Usage) -> UsageReport:
    """``usage`` with its sum."""
    return UsageReport(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def choice(index: int, end: Reply, told: AlignerReport) -> Choice:
    """``end`` as an answer of a chat."""
    blocked = end.outcome == "blocked"
    message = ReplyMessage(
        content=None if blocked else end.text, refusal=REFUSAL if blocked else None
    )
    return Choice(index=index, message=message, finish_reason=finish_reason(end), aligner=told)


def text_choice(index: int, end: Reply, told: AlignerReport) -> TextChoice:
    """``end`` as plain text."""
    return TextChoice(index=index, text=end.text, finish_reason=finish_reason(end), aligner=told)


def stage_info(stage: StageReport) -> StageInfo:
    """``stage`` as it is told to clients."""
    corrects = stage.stage == "corrector"
    stood_in = not corrects and stage.by not in ("", stage.name)
    return StageInfo(
        stage="corrector" if corrects else "upstream",
        name=stage.name,
        round=stage.round,
        milliseconds=round(stage.ms, 2),
        usage=usage_report(stage.usage),
        version=stage.by or None if corrects else None,
        answered_by=stage.by if stood_in else None,
        reason=stage.reason,
        savings=_savings_info(stage.savings) if corrects and stage.reason is None else None,
    )


def _savings_info(savings: Savings) -> SavingsInfo:
    first_ms = savings.first_token_ms
    return SavingsInfo(
        kept=savings.kept,
        keep_score=savings.keep_score,
        keep_milliseconds=round(savings.keep_ms, 2),
        trusted_tokens=savings.trusted_tokens,
        decoded_tokens=savings.decoded_tokens,
        decode_steps=savings.decode_steps,
        cached_tokens=savings.cached_tokens,
        first_token_milliseconds=None if first_ms is None else round(first_ms, 2),
    )


def finish_reason(end: Reply) -> FinishReason:
    """OpenAI's word for how ``end`` ended."""
    return "content_filter" if end.outcome == "blocked" else end.finish
