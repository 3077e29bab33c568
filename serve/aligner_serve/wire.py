"""The HTTP API's messages: OpenAI's chat completions with one field more, and corrections.

Free of ray, torch and fastapi. Unknown fields are refused: a setting that would have no effect
must not look as if it had one.
"""

import json
import time
import uuid
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aligner.generation import Messages, Sampling
from aligner.records import Turn
from aligner_serve.pipeline import Outcome, Stage, Usage

OUTCOME_HEADER: Final = "x-aligner-outcome"
DONE: Final = b"data: [DONE]\n\n"

FinishReason = Literal["stop", "content_filter"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TextPart(_Strict):
    """A part of a message; only text can be corrected."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | list[TextPart], Field(min_length=1)]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Options(_Strict):
    """What a request may ask of the Aligner; with OpenAI's client in ``extra_body``."""

    include_original: bool = False
    """Put the upstream's own answer beside the correction."""


class StreamOptions(_Strict):
    """Settings of ``stream: true``."""

    include_usage: bool = False
    """Put token counts into the last event."""


class ChatRequest(_Strict):
    """``POST /v1/chat/completions``."""

    model: str
    """``<upstream>+<aligner>``; see ``/v1/models``."""
    messages: Annotated[list[Message], Field(min_length=1)]
    """The last one is the user's question; earlier turns are its history."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    """This and the next five go to the upstream; the correction is decoded as configured."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    user: str | None = None
    """Taken and not used, as is ``metadata``."""
    metadata: dict[str, str] | None = None
    aligner: Options = Options()

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return self

    @property
    def question(self) -> str:
        """What is asked."""
        return self.messages[-1].text

    @property
    def history(self) -> tuple[Turn, ...]:
        """Earlier turns of the conversation; the system's messages are the upstream's alone."""
        return tuple(
            Turn(message.role, message.text)
            for message in self.messages[:-1]
            if message.role == "user" or message.role == "assistant"
        )

    @property
    def upstream_messages(self) -> Messages:
        """All messages, as the upstream gets them."""
        return [{"role": message.role, "content": message.text} for message in self.messages]

    def sampling(self, default: Sampling) -> Sampling:
        """``default`` with what this request says otherwise."""
        asked = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "seed": self.seed,
        }
        update = {key: value for key, value in asked.items() if value is not None}
        return default.model_copy(update=update)


class PastTurn(_Strict):
    """An earlier message of the conversation."""

    role: Literal["user", "assistant"]
    content: str


class CorrectionRequest(_Strict):
    """``POST /v1/corrections``, for those who keep their own upstream."""

    question: Annotated[str, Field(min_length=1)]
    answer: Annotated[str, Field(min_length=1)]
    history: list[PastTurn] = []
    model: str | None = None
    """Name of the aligner; there is one, so it may be left out."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history as the prompt takes it."""
        return tuple(Turn(turn.role, turn.content) for turn in self.history)


class AlignerReport(BaseModel):
    """What was done to the answer; the field ``aligner`` of every reply."""

    outcome: Outcome
    reason: str | None = None
    """Why there is no correction: ``timeout``, ``too_long``, ``length``, ``empty``, ..."""
    upstream: str | None = None
    version: str
    """Of the aligner."""
    similarity: float | None = None
    """Of answer and correction, over words, in [0, 1]; left out for very long texts."""
    seconds: dict[Stage, float] = {}
    original: str | None = None
    """The upstream's own answer, where it was asked for."""


class UsageReport(BaseModel):
    """Tokens of both stages together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ReplyMessage(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None


class Choice(BaseModel):
    """The only choice."""

    index: Literal[0] = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatResponse(BaseModel):
    """Reply of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
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
    version: str


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


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class Chunks:
    """The events of one streamed chat completion."""

    def __init__(self, model: str) -> None:
        self._head = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": now(),
            "model": model,
        }

    def role(self) -> bytes:
        """The first: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """A piece of the text."""
        return self._chunk({"content": text})

    def refusal(self, text: str) -> bytes:
        """In place of a text that is withheld."""
        return self._chunk({"refusal": text})

    def last(self, finish: FinishReason, report: AlignerReport, usage: Usage | None) -> bytes:
        """Why it ended, what was done, and the token counts where they were asked for."""
        tail: dict[str, Any] = {"aligner": report.model_dump(mode="json", exclude_none=True)}
        if usage is not None:
            tail["usage"] = usage_report(usage).model_dump()
        return self._chunk({}, finish, tail)

    def _chunk(
        self,
        delta: dict[str, str],
        finish: FinishReason | None = None,
        tail: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self._head, "choices": [choice], **(tail or {})})
