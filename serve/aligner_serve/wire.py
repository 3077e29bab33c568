"""What the HTTP API takes: OpenAI's requests with one field more, and corrections.

Free of ray, torch and fastapi. Unknown fields are refused: a setting that would have no effect
must not look as if it had one.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from aligner.generation import Messages, Sampling
from aligner.records import Question, Turn

MAX_CHOICES: Final = 16
"""Answers to one request."""
MAX_PAIRS: Final = 64
"""Corrections of one request."""


def _whole(value: object) -> object:
    """JSON knows one kind of number: 1.0 is an integer, which "1" and true are not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE: Final = BeforeValidator(_whole)
"""Stands behind the bounds of its field, or these would be missing from the description."""


_Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class TextPart(_Strict):
    """A part of a message; only text can be corrected."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | Annotated[list[TextPart], Field(min_length=1)]
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


Stop = str | Annotated[list[str], Field(max_length=4)]


class _Generation(_Strict):
    """What requests for an answer have in common."""

    model: str
    """``<upstream>+<aligner>``; see ``/v1/models``."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), _WHOLE] | None = None
    """Answers, each asked for and corrected by itself."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    """This and the next five go to the upstream; the correction is decoded as configured."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    max_tokens: Annotated[int, Field(ge=1), _WHOLE] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), _WHOLE] | None = None
    stop: Stop | None = None
    """Ends the upstream's answer, and the corrected one too."""
    user: str | None = None
    """Taken and not used."""
    aligner: Options = Options()

    @property
    def choices(self) -> int:
        """Answers to each question."""
        return self.n or 1

    @property
    def limit_tokens(self) -> int | None:
        """What the answer may have at most."""
        return self.max_tokens

    @property
    def includes_usage(self) -> bool:
        """Whether a stream is to end with token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, default: Sampling) -> Sampling:
        """``default`` with what this request says otherwise."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        asked = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "max_tokens": self.limit_tokens,
            "seed": self.seed,
            # An empty text would end everything before it begins.
            "stop": tuple(filter(None, stop)) or None,
        }
        update = {key: value for key, value in asked.items() if value is not None}
        return default.model_copy(update=update)


class ChatRequest(_Generation):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    """The last one is the user's question; earlier turns are its history."""
    max_completion_tokens: Annotated[int, Field(ge=1), _WHOLE] | None = None
    metadata: dict[str, str] | None = None
    """Taken and not used."""

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return self

    @property
    def asked(self) -> Question:
        """What is asked; the system's messages are the upstream's alone."""
        history = tuple(
            Turn(message.role, message.text)
            for message in self.messages[:-1]
            if message.role == "user" or message.role == "assistant"
        )
        return Question(self.messages[-1].text, history)

    @property
    def upstream_messages(self) -> Messages:
        """All messages, as the upstream gets them."""
        return [{"role": message.role, "content": message.text} for message in self.messages]

    @property
    def limit_tokens(self) -> int | None:
        """What the answer may have at most."""
        return self.max_completion_tokens or self.max_tokens


Prompt = Annotated[str, Field(min_length=1)]


class CompletionRequest(_Generation):
    """``POST /v1/completions``; a prompt is asked as the only message of its user."""

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_CHOICES)]

    @property
    def questions(self) -> list[str]:
        """What is asked."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if len(self.questions) * self.choices > MAX_CHOICES:
            raise ValueError(f"prompts times n must be at most {MAX_CHOICES}")
        return self


class PastTurn(_Strict):
    """An earlier message of the conversation."""

    role: Literal["user", "assistant"]
    content: str


class Pair(_Strict):
    """A question and the answer to be corrected."""

    question: Annotated[str, Field(min_length=1)]
    answer: Annotated[str, Field(min_length=1)]
    history: list[PastTurn] = []

    @property
    def asked(self) -> Question:
        """The question as the prompt takes it."""
        history = tuple(Turn(turn.role, turn.content) for turn in self.history)
        return Question(self.question, history)


class CorrectionRequest(Pair):
    """``POST /v1/corrections``, for those who keep their own upstream."""

    model: str | None = None
    """``<aligner>`` or ``<first>+<second>``; where there is only one it may be left out."""


class CorrectionBatchRequest(_Strict):
    """``POST /v1/corrections/batch``."""

    pairs: Annotated[list[Pair], Field(min_length=1, max_length=MAX_PAIRS)]
    model: str | None = None
    """As for one correction."""
