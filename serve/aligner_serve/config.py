"""The served graph as one validated file. Free of ray, torch and fastapi."""

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from aligner.config import StrictModel
from aligner.generation import Endpoint, Sampling
from aligner.tracking import TrackingConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

FailurePolicy = Literal["passthrough", "block", "error"]


class Scaling(StrictModel):
    """How many replicas a deployment has, and how much it takes before it says no."""

    min_replicas: int = Field(default=1, ge=0)
    """Kept while idle; 0 saves memory and costs the first request a start."""

    max_replicas: int = Field(default=1, ge=1)
    """Upper bound; above ``min_replicas`` the deployment scales by itself."""

    target_ongoing_requests: float = Field(default=8.0, gt=0)
    """Per replica, on average; more than that adds a replica."""

    max_ongoing_requests: int = Field(default=32, ge=1)
    """Per replica at once; further ones wait in the queue."""

    max_queued_requests: int = Field(default=128, ge=0)
    """Waiting per caller; the next one is turned away with 429."""

    num_cpus: float = Field(default=0.1, ge=0)
    """Logical CPUs that Ray reserves per replica."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas={self.min_replicas} is more than max_replicas="
                f"{self.max_replicas}; raise max_replicas"
            )
        if self.target_ongoing_requests > self.max_ongoing_requests:
            raise ValueError(
                f"target_ongoing_requests={self.target_ongoing_requests:g} can never be reached "
                f"with max_ongoing_requests={self.max_ongoing_requests}; lower the target"
            )
        return self


class UpstreamConfig(StrictModel):
    """A model whose answers are corrected, behind any OpenAI-compatible API."""

    model: str | None = None
    """Name that its API knows it by; unset: the name it has here."""

    base_url: str | None = None
    """Of its API, ``/v1`` included; unset: ``base_url`` of the graph."""

    api_key_env: str | None = None
    """Environment variable that holds the key; unset: the API asks for none."""

    timeout_s: float = Field(default=60.0, gt=0)
    """For one attempt."""

    max_attempts: int = Field(default=2, ge=1)
    """The first included; a request's deadline ends them all."""

    sampling: Sampling = Sampling(temperature=0.7, max_tokens=512)
    """Where a request does not say otherwise."""

    max_tokens_limit: int = Field(default=4096, ge=1)
    """What a request may ask for at most."""

    scaling: Scaling = Scaling(target_ongoing_requests=32, max_ongoing_requests=128)
    """Of its deployment, which only waits for the API."""


class FromRegistry(StrictModel):
    """The version that a registry's alias names."""

    kind: Literal["registry"] = "registry"

    model: str
    """Registered name."""

    version: str = Field(default="@champion", coerce_numbers_to_str=True)
    """An alias (``@champion``), a number or ``latest``."""


class FromPath(StrictModel):
    """An export by its place, without a registry."""

    kind: Literal["path"] = "path"

    uri: str
    """Local folder or ``s3://``."""


class EngineConfig(StrictModel):
    """The vLLM engine that decodes corrections."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "bfloat16"
    """Of weights and activations; float16 needs a GPU."""

    max_model_len_tokens: int | None = Field(default=None, ge=16)
    """Prompt and correction together; unset: what the model was made for."""

    max_num_seqs: int = Field(default=32, ge=1)
    """Corrections decoded at once by one replica."""

    enforce_eager: bool = True
    """Without compilation: quick to start, and no slower on a CPU. Off for a GPU."""

    ngram_speculation_tokens: int = Field(default=0, ge=0)
    """Tokens guessed ahead by copying from the prompt; corrections mostly copy. 0 is off."""

    num_gpus: int = Field(default=0, ge=0)
    """Per replica; 0 decodes on the CPU."""


class AlignerConfig(StrictModel):
    """The model that corrects."""

    name: str = "aligner"
    """Its part of the served model names, ``<upstream>+<name>``."""

    source: Annotated[FromRegistry | FromPath, Field(discriminator="kind")]
    """Where its weights come from."""

    engine: EngineConfig = EngineConfig()
    """How they are run."""

    sampling: Sampling = Sampling(max_tokens=1024)
    """Greedy: a correction is no place for chance. ``max_tokens`` bounds one correction."""

    headroom_ratio: float = Field(default=1.25, ge=1.0)
    """Room that must be left for a correction, as a multiple of the answer's tokens; a pair
    that leaves less is not corrected, for a correction cut short would lose its end."""

    timeout_s: float = Field(default=30.0, gt=0)
    """For one correction, from sending the pair to its last token."""

    on_failure: FailurePolicy = "passthrough"
    """What a request gets whose correction failed: the answer as it is, nothing, or an error.
    Never in silence: the outcome is in the reply and in the header ``x-aligner-outcome``."""

    scaling: Scaling = Scaling(max_ongoing_requests=32, num_cpus=1)
    """Of the corrector's deployment."""

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return _require_name(value)


class GraphConfig(StrictModel):
    """``aligner serve``: a gateway, one or more upstreams and a corrector."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback is open to others, without any key."""

    port: int = Field(default=8000, ge=1, le=65535)
    """Of the HTTP API."""

    base_url: str | None = None
    """For upstreams that name none of their own."""

    upstreams: dict[str, UpstreamConfig] = Field(min_length=1)
    """Name to model; clients ask for ``<name>+<aligner's name>``."""

    aligner: AlignerConfig
    """The model that corrects."""

    deadline_s: float = Field(default=120.0, gt=0)
    """For a whole request, both models and their queues included."""

    start_timeout_s: float = Field(default=300.0, gt=0)
    """For all deployments to be up; large weights need longer."""

    shutdown_timeout_s: float = Field(default=30.0, ge=0)
    """Given to requests in flight when the graph is stopped or updated."""

    gateway: Scaling = Scaling(target_ongoing_requests=64, max_ongoing_requests=256)
    """Of the gateway's deployment."""

    cache: str = "~/.cache/aligner/exports"
    """Folder for exports fetched from ``s3://``."""

    tracking: TrackingConfig = TrackingConfig()
    """The registry that ``aligner.source`` names a model of."""

    @field_validator("upstreams")
    @classmethod
    def _are_names(cls, value: dict[str, UpstreamConfig]) -> dict[str, UpstreamConfig]:
        for name in value:
            _require_name(name)
        return value

    @model_validator(mode="after")
    def _every_upstream_has_an_address(self) -> Self:
        for name in self.upstreams:
            self.endpoint(name)
        return self

    def endpoint(self, name: str) -> Endpoint:
        """Where upstream ``name`` is reached."""
        upstream = self.upstreams[name]
        base_url = upstream.base_url or self.base_url
        if base_url is None:
            raise ValueError(
                f"upstream {name!r} has no base_url; give it one, or one to the whole graph"
            )
        return Endpoint(
            base_url=base_url,
            model=upstream.model or name,
            api_key_env=upstream.api_key_env,
            timeout_s=upstream.timeout_s,
            max_attempts=upstream.max_attempts,
        )

    @property
    def served_models(self) -> dict[str, str]:
        """Model name that clients ask for -> upstream."""
        return {f"{name}+{self.aligner.name}": name for name in self.upstreams}

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines can reach the port."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the gateway."""
        unspecified = self.host in ("0.0.0.0", "::")
        host = "127.0.0.1" if unspecified else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def _require_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is no name; use up to 63 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return value
