"""What it means to ask a model for text: sampling settings, a completion, and the seam."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from aligner.config import StrictModel
from aligner.networks import Network, reach_of
from aligner.records import Turn

Messages = list[dict[str, str]]
"""Chat messages in OpenAI's form: ``{"role": ..., "content": ...}``."""


class Sampling(StrictModel):
    """Decoding settings; a field left at ``None`` is not sent, so the model's default holds."""

    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """0 is greedy."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus."""

    top_k: int | None = Field(default=None, ge=1)
    """Not part of OpenAI's API; sent only where given."""

    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    """Keep at 0 for Aligners: it pushes a long copy away from verbatim."""

    repetition_penalty: float | None = Field(default=None, gt=0.0)
    """Counts prompt tokens too, so it punishes copying outright; sent only where given."""

    max_tokens: int = Field(default=512, ge=1)
    """Upper bound of generated tokens."""

    seed: int | None = None
    """Sampling seed, where the endpoint honours one."""

    stop: tuple[str, ...] = Field(default=(), max_length=4)
    """Texts that end the generation and are not part of it."""

    @model_serializer(mode="wrap")
    def _without_empty_stop(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Replies are kept under a hash of this: those of earlier versions must be found again.
        dumped: dict[str, Any] = handler(self)
        if not self.stop:
            dumped.pop("stop", None)
        return dumped


class Endpoint(StrictModel):
    """A model behind any OpenAI-compatible HTTP API."""

    base_url: str
    """Including the version: ``http://127.0.0.1:8100/v1``."""

    model: str
    """Name that the API knows the model by."""

    api_key_env: str | None = None
    """Environment variable that holds the key; unset: the API asks for none."""

    timeout_s: float = Field(default=60.0, gt=0)
    """For one attempt, from sending to the last byte."""

    max_attempts: int = Field(default=5, ge=1)
    """Of one request, the first included; only what may pass by itself is tried again."""

    deadline_s: float = Field(default=600.0, gt=0)
    """For one request over all its attempts and the pauses between them."""

    networks: tuple[Network, ...] | None = None
    """Networks besides the public ones that it may lie in; unset: anywhere."""

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        if "@" in value:
            raise ValueError("must hold no credentials; name the key's variable in api_key_env")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        if self.networks is not None:
            reach_of(self.base_url, self.networks)
        return self


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated text."""

    text: str
    finish_reason: Literal["stop", "length", "other"]
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of sending a request once."""

    outcome: str
    """``ok``, or the short reason why there is no usable text."""

    retry_after_s: float | None = None
    """How long the endpoint asks to be left alone."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Both as the endpoint counted them; 0 where it said nothing."""


Settle = Callable[[Attempt], None]
"""Is told once what came of the attempt that it was given for."""

Admit = Callable[[int], Awaitable[Settle]]
"""Returns when an attempt may be sent that uses at most so many tokens: the seam for budgets."""


async def admit_all(tokens: int) -> Settle:
    """An :data:`Admit` that holds nothing back."""
    return lambda attempt: None


class ChatModel(Protocol):
    """A model behind a chat interface; adapters implement it, the fake ships with the product."""

    async def complete(self, messages: Messages, sampling: Sampling) -> Completion:
        """Generate one completion.

        Raises:
            GenerationError: No usable text after the adapter's retries.
        """


def chat_messages(question: str, history: tuple[Turn, ...] = ()) -> Messages:
    """The conversation as an upstream sees it: history, then the question."""
    past = [{"role": turn.role, "content": turn.text} for turn in history]
    return [*past, {"role": "user", "content": question}]


def openai_parameters(sampling: Sampling) -> dict[str, Any]:
    """Keyword arguments for OpenAI-compatible chat completions; extensions in ``extra_body``."""
    extensions = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
    extra = {key: value for key, value in extensions.items() if value is not None}
    parameters: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "frequency_penalty": sampling.frequency_penalty,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.seed is not None:
        parameters["seed"] = sampling.seed
    if sampling.stop:
        parameters["stop"] = list(sampling.stop)
    if extra:
        parameters["extra_body"] = extra
    return parameters


def completions_in(reply: Any) -> list[Completion] | Literal["malformed", "no_text"]:
    """The completions in the JSON of an OpenAI-compatible reply, or why there are none."""
    try:
        usage = reply.get("usage") or {}
        choices = [
            (choice["message"].get("content"), choice.get("finish_reason"))
            for choice in reply["choices"]
        ]
    except (KeyError, TypeError, AttributeError):
        return "malformed"
    if not choices or not all(isinstance(text, str) for text, _ in choices):
        return "no_text"
    prompt_tokens, completion_tokens = counts_in(usage)
    return [
        Completion(
            text=text,
            finish_reason=finish_reason_of(reason),
            # The API counts all choices of a request together; the first carries the prompt.
            prompt_tokens=prompt_tokens if index == 0 else 0,
            completion_tokens=_part(completion_tokens, index, len(choices)),
        )
        for index, (text, reason) in enumerate(choices)
    ]


def _part(total: int, index: int, parts: int) -> int:
    """The share of one of ``parts``; all of them add up to ``total``."""
    return total // parts + (index < total % parts)


def finish_reason_of(reason: object) -> Literal["stop", "length", "other"]:
    """What an API calls the end of a text, in our words."""
    match reason:
        case "stop" | "length":
            return reason
        case _:
            return "other"


def counts_in(usage: object) -> tuple[int, int]:
    """Tokens of prompt and completion, as an API counts them; 0 for what is no count."""
    if not isinstance(usage, dict):
        return 0, 0
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(value: object) -> int:
    """Sums of counts are kept in places of 64 bits."""
    return value if type(value) is int and 0 <= value < 2**48 else 0
