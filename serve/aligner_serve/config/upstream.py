"""The models whose answers are corrected. Free of ray, torch and fastapi."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from aligner.config import StrictModel, kind_or
from aligner.generation import Sampling
from aligner_serve.config.aligner import EngineConfig
from aligner_serve.config.scaling import EngineScaling, Scaling


class BreakerConfig(StrictModel):
    """When an upstream that fails is left alone, and for how long."""

    failures: int = Field(default=5, ge=1)
    """In a row that open the breaker; what a request itself is to blame for is not counted."""

    open_s: float = Field(default=5.0, gt=0)
    """Until one request may try whether the upstream is back; doubles while it is not."""

    longest_open_s: float = Field(default=60.0, gt=0)
    """Where the doubling ends."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.longest_open_s < self.open_s:
            raise ValueError(
                f"longest_open_s={self.longest_open_s:g} is less than open_s={self.open_s:g}; "
                "raise it"
            )
        return self


class _Upstream(StrictModel):
    """What all upstreams have."""

    sampling: Sampling = Sampling(temperature=0.7, max_tokens=512)
    """Where a request does not say otherwise."""

    max_tokens_limit: int = Field(default=4096, ge=1)
    """What a request may ask for at most."""

    raw: bool = False
    """Whether its answers may also be asked for uncorrected, under its own name."""

    fallbacks: tuple[str, ...] = ()
    """Upstreams that are asked in its place, in this order, while it fails."""

    breaker: BreakerConfig = BreakerConfig()
    """Spares requests the wait for an upstream that does not answer."""


class ApiUpstream(_Upstream):
    """A model behind any OpenAI-compatible API."""

    kind: Literal["openai"] = "openai"

    model: str | None = None
    """Name that its API knows it by; unset: the name it has here."""

    base_url: str | None = None
    """Of its API, ``/v1`` included; unset: ``base_url`` of the graph."""

    api_key_env: str | None = None
    """Environment variable that holds the key; unset: the API asks for none."""

    stream: bool = True
    """Whether its API is asked for a stream, which tells a slow reply from one that hangs."""

    timeout_s: float = Field(default=60.0, gt=0)
    """For one attempt."""

    first_token_timeout_s: float = Field(default=30.0, gt=0)
    """For a stream to begin."""

    idle_timeout_s: float = Field(default=15.0, gt=0)
    """For a stream that has begun to go on."""

    max_attempts: int = Field(default=2, ge=1)
    """The first included; a request's deadline ends them all."""

    scaling: Scaling | None = None
    """Of a deployment of its own. Unset: the gateway's replicas ask the API themselves, which
    spares each answer a way between processes."""


class EngineUpstream(_Upstream):
    """A model in a folder, which the graph runs itself with vLLM."""

    kind: Literal["vllm"]

    model: str
    """Folder in Hugging Face's layout with a chat template, or an export that was trained to answer
    questions, a folder or ``s3://``; code that a model brings is never run."""

    engine: EngineConfig = EngineConfig()
    """How it is run."""

    scaling: EngineScaling = EngineScaling()
    """Of its deployment."""


Upstream = Annotated[
    Annotated[ApiUpstream, Tag("openai")] | Annotated[EngineUpstream, Tag("vllm")],
    Discriminator(kind_or("openai")),
]
