"""Who answers, and how fast any model behind an API may be asked."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from aligner.config import StrictModel, kind_or
from aligner.generation import Endpoint, Sampling
from aligner_jobs.config.engine import EngineConfig

TRANSPORT: Final = (
    *("base_url", "api_key_env", "timeout_s", "max_attempts", "deadline_s", "max_in_flight"),
    *("requests_per_min", "tokens_per_min"),
    *("usd_per_1m_prompt_tokens", "usd_per_1m_completion_tokens", "engine"),
)
"""Fields of a model that have no say in what it replies."""


PAPER_SAMPLING: Final = Sampling(
    temperature=0.5, top_p=0.95, top_k=10, repetition_penalty=1.1, max_tokens=2048
)


class ApiModel(Endpoint):
    """A model behind an API: how it decodes, how fast it may be asked, what it costs."""

    sampling: Sampling = Sampling()
    """How it decodes."""

    max_in_flight: int = Field(default=16, ge=1)
    """Requests of one worker that it answers at the same time."""

    requests_per_min: int | None = Field(default=None, ge=1)
    """Over all workers, each attempt counted; never more in any minute. Unset: no limit."""

    tokens_per_min: int | None = Field(default=None, ge=1)
    """Likewise, of prompts and completions together. A request counts as what it may use at most
    until its reply says what it did use."""

    usd_per_1m_prompt_tokens: float = Field(default=0.0, ge=0.0)
    """Price of a million, for the ledger."""

    usd_per_1m_completion_tokens: float = Field(default=0.0, ge=0.0)
    """Price of a million, for the ledger."""

    @property
    def budgeted(self) -> bool:
        """Whether a request has to wait for its turn."""
        return self.requests_per_min is not None or self.tokens_per_min is not None

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.tokens_per_min is not None and self.tokens_per_min < self.sampling.max_tokens:
            raise ValueError(
                f"tokens_per_min={self.tokens_per_min} is less than one completion may have; "
                f"raise it or lower sampling.max_tokens={self.sampling.max_tokens}"
            )
        return self


class Upstream(ApiModel):
    """A model behind an API whose answers are to be corrected."""

    kind: Literal["openai"] = "openai"

    samples_per_question: int = Field(default=1, ge=1, le=128)
    """Answers to each question; more than one needs a temperature above 0 to differ."""


class LocalUpstream(StrictModel):
    """A model in a folder whose answers are to be corrected; the job runs it itself, with vLLM."""

    kind: Literal["vllm"]

    model: str
    """Folder in Hugging Face's layout, chat template included; code it brings is never run."""

    sampling: Sampling = PAPER_SAMPLING
    """How it decodes; unless changed, as the paper's upstreams did (Table 19)."""

    samples_per_question: int = Field(default=1, ge=1, le=128)
    """Answers to each question; more than one needs a temperature above 0 to differ."""

    engine: EngineConfig = EngineConfig()
    """What it runs on. Local models run one after the other, before anything else is asked."""


_kind = kind_or("openai")

AnyUpstream = Annotated[
    Annotated[Upstream, Tag("openai")] | Annotated[LocalUpstream, Tag("vllm")],
    Discriminator(_kind),
]


def with_base_url(endpoints: dict[Any, Any], base_url: object) -> dict[Any, Any]:
    """Unvalidated ``endpoints``, by name, with ``base_url`` where one names none of its own."""
    return {
        name: {"base_url": base_url, **one}
        if isinstance(one, dict) and _kind(one) == "openai"
        else one
        for name, one in endpoints.items()
    }
