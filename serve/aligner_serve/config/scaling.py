"""How many replicas a deployment has, when that changes, and how much one of them takes."""

from typing import Self

from pydantic import Field, model_validator

from aligner.config import StrictModel


class Scaling(StrictModel):
    """Of one deployment; those of gateway, upstreams and correctors scale apart."""

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

    look_back_s: float = Field(default=10.0, gt=0)
    """The load that counts is the mean over so many seconds."""

    upscale_delay_s: float = Field(default=5.0, ge=0)
    """A replica is added when there was too much to do for so long."""

    downscale_delay_s: float = Field(default=120.0, ge=0)
    """A replica is taken away when it was not needed for so long; starting an engine anew costs
    most of a minute."""

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


class EngineScaling(Scaling):
    """Of a deployment whose replicas hold an engine each."""

    num_cpus: float = Field(default=1.0, ge=0)
    """Logical CPUs that Ray reserves per replica."""

    target_queued_tokens: float | None = Field(default=16_384.0, gt=0)
    """Per replica, on average: tokens of its requests that are still to be read or written. More
    than that adds a replica, however few the requests are; unset: requests alone count."""
