"""Settings of ``aligner evaluate``."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.tracking import TrackingConfig
from aligner_jobs.config.asking import TRANSPORT, Upstream, with_base_url
from aligner_jobs.config.engine import EngineConfig
from aligner_jobs.config.sources import QuestionsSource

_NOT_CONTENT = ("out", "model", "export", "tracking", "base_url", "max_failed_share")


class SimworldQuestions(StrictModel):
    """Held-out questions of the simulated world: none of them is ever trained on."""

    kind: Literal["simworld"]

    limit: int = Field(default=150, ge=1)
    """Questions to each upstream."""


class DatasetQuestions(StrictModel):
    """The questions of a dataset artefact's held-out rows."""

    kind: Literal["dataset"]

    uri: str
    """Folder or ``s3://`` prefix of the dataset."""

    limit: int | None = Field(default=None, ge=1)
    """Questions to each upstream; unset: all."""


class FileQuestions(QuestionsSource):
    """Questions of files."""

    limit: int | None = Field(default=None, ge=1)
    """Questions to each upstream; unset: all."""

    max_bad_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of a file's rows that may be unusable; above it the job fails."""


Questions = Annotated[
    SimworldQuestions | DatasetQuestions | FileQuestions, Field(discriminator="kind")
]


class SimworldJudge(StrictModel):
    """The exact judge of the simulated world; it knows the answer to its world's questions only."""

    kind: Literal["simworld"]


Judge = SimworldJudge
"""A judge of another kind makes this a union told apart by ``kind``."""


class EvaluateConfig(StrictModel):
    """Ask upstreams, correct their answers with an Aligner, judge both, and report."""

    out: str
    """Folder or ``s3://`` prefix of the report; must not exist."""

    name: str = "evaluation"
    """Of the report, for people and in tracking."""

    model: str | None = None
    """A registered Aligner: ``name`` (its newest version), ``name@alias`` or ``name/3``."""

    export: str | None = None
    """In place of ``model``: the folder or ``s3://`` prefix of an export."""

    seed: int = 0
    """Of the simulated world, where questions or judge are of kind ``simworld``."""

    base_url: str | None = None
    """Of every upstream that names none of its own."""

    upstreams: dict[str, Upstream] = Field(min_length=1)
    """By the name that the report gives them; each answers every question."""

    questions: Questions
    """What they are asked."""

    judge: Judge
    """Who compares answers and corrections."""

    engine: EngineConfig = EngineConfig()
    """How the Aligner runs."""

    max_growth_ratio: float = Field(default=2.0, ge=1.0)
    """Longest correction, in lengths of its answer; what is longer is cut off and not used."""

    min_room_tokens: int = Field(default=128, ge=1)
    """Room for the correction of a short answer."""

    max_failed_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of an upstream's requests that may fail; above it the job fails."""

    examples: int = Field(default=4, ge=0)
    """Answers of each upstream that the HTML report shows with their correction."""

    tracking: TrackingConfig = TrackingConfig()
    """Where the run is recorded and the model is registered."""

    def identity(self) -> dict[str, Any]:
        """The settings that decide what a report says, apart from the model itself."""
        dump = self.model_dump(mode="json", exclude=set(_NOT_CONTENT))
        for upstream in dump["upstreams"].values():
            for key in TRANSPORT:
                upstream.pop(key, None)
        return dump

    @property
    def rows_per_question(self) -> int:
        """Answers to each question: upstreams times samples."""
        return sum(upstream.samples_per_question for upstream in self.upstreams.values())

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

    @model_validator(mode="before")
    @classmethod
    def _fill_base_url(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("base_url") is None:
            return raw
        upstreams = raw.get("upstreams")
        if not isinstance(upstreams, dict):
            return raw
        return {**raw, "upstreams": with_base_url(upstreams, raw["base_url"])}

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.export is None):
            raise ValueError("name either a registered model or an export; set one of the two")
        return self
