"""A trained Aligner that a job runs itself."""

import math
from typing import Self

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner_jobs.config.engine import EngineConfig


class AlignerModel(StrictModel):
    """Which Aligner, and how it runs."""

    model: str | None = None
    """A registered Aligner: ``name`` (its newest version), ``name@alias`` or ``name/3``."""

    export: str | None = None
    """In place of ``model``: the folder or ``s3://`` prefix of an export."""

    engine: EngineConfig = EngineConfig()
    """How the Aligner runs."""

    max_growth_ratio: float = Field(default=2.0, ge=1.0)
    """Longest correction, in lengths of its answer; what is longer is cut off and not used."""

    min_room_tokens: int = Field(default=128, ge=1)
    """Room for the correction of a short answer."""

    @property
    def model_name(self) -> str:
        """Registered name in ``model``."""
        return self._model_parts[0]

    @property
    def model_version(self) -> str:
        """Version in ``model``, as :meth:`aligner.tracking.Tracker.version` reads it."""
        return self._model_parts[1]

    @property
    def _model_parts(self) -> tuple[str, str]:
        text = self.model or ""
        if "@" in text:
            name, _, alias = text.rpartition("@")
            return name, f"@{alias}"
        name, _, number = text.rpartition("/")
        return (name, number) if name and number.isdecimal() else (text, "latest")

    def room_tokens(self, *, answer: int) -> int:
        """Tokens that the correction of an answer of so many tokens may have, EOS included."""
        return max(self.min_room_tokens, math.ceil(answer * self.max_growth_ratio) + 1)

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.export is None):
            raise ValueError("name either a registered model or an export; set one of the two")
        return self
