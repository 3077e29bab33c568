"""How many replicas a deployment has, when that changes, and how much one of them takes."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from aligner.config import StrictModel


class Scaling(StrictModel):
    """Of one deployment; those of gateway, upstreams and correctors scale apart."""

    _full_share: ClassVar[float] = 0.25

    min_replicas: int = Field(default=1, ge=0)
    """Kept while idle; 0 saves memory and costs the first request a start."""

    max_replicas: int = Field(default=1, ge=1)
    """Upper bound; above ``min_replicas`` the deployment scales by itself."""

    target_ongoing_requests: float | None = Field(default=None, gt=0)
    """Per replica, on average; more than that adds a replica. Unset: a quarter of
    ``max_ongoing_requests``; for an engine, which is judged by its tokens, three quarters."""

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
        if self.requests_per_replica > self.max_ongoing_requests:
            raise ValueError(
                f"target_ongoing_requests={self.requests_per_replica:g} can never be reached "
                f"with max_ongoing_requests={self.max_ongoing_requests}; lower the target"
            )
        return self

    @property
    def requests_per_replica(self) -> float:
        """What ``target_ongoing_requests`` comes to."""
        given = self.target_ongoing_requests
        return self._full_share * self.max_ongoing_requests if given is None else given


class EngineScaling(Scaling):
    """Of a deployment whose replicas hold an engine each."""

    _full_share: ClassVar[float] = 0.75

    num_cpus: float = Field(default=1.0, ge=0)
    """Logical CPUs that Ray reserves per replica."""

    target_queued_tokens: float | None = Field(default=16_384.0, gt=0)
    """Per replica, on average: tokens of its requests that are still to be read or written. More
    than that adds a replica, however few the requests are; unset: they do not count."""

    target_first_token_s: float | None = Field(default=2.0, gt=0)
    """How long nine of ten requests may wait for their first token, or for the score of an answer.
    More than that adds a replica where requests share one; more than half of it keeps those that
    there are. It should be several times what an idle replica needs; unset: it does not count."""
