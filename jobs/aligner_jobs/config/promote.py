"""Settings of ``aligner promote``."""

from typing import Literal, Self

from pydantic import model_validator

from aligner.config import StrictModel
from aligner.gates import Gate
from aligner.tracking import TrackingConfig


class PromoteConfig(StrictModel):
    """Hold a report against the gate and point an alias to the version that it judged."""

    report: str
    """Folder or ``s3://`` prefix of the report."""

    model: str | None = None
    """Registered name; unset: the one that the report names."""

    version: str | None = None
    """Its version; unset: the one that the report names."""

    alias: Literal["candidate", "champion"] = "champion"
    """What points to the version if it passes; serving follows ``champion``."""

    gate: Gate = Gate()
    """The thresholds."""

    tracking: TrackingConfig = TrackingConfig()
    """Where the model is registered."""

    @model_validator(mode="after")
    def _version_of_a_model(self) -> Self:
        if (self.model is None) != (self.version is None):
            raise ValueError("model and version go together; set both, or neither")
        return self
