"""Settings of ``aligner evaluate``."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.tracking import TrackingConfig
from aligner_jobs.config.aligner import AlignerModel
from aligner_jobs.config.asking import TRANSPORT, Upstream, with_base_url
from aligner_jobs.config.keeping import Keep
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


class EvaluateConfig(AlignerModel):
    """Ask upstreams, correct their answers with an Aligner, judge both, and report."""

    out: str
    """Folder or ``s3://`` prefix of the report; must not exist."""

    name: str = "evaluation"
    """Of the report, for people and in tracking."""

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

    keep: Keep | None = None
    """Whether each answer's copy is read before its correction is written, which saves decoding
    what is copied: to find the threshold of KEEP, or to keep answers by one."""

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

    @model_validator(mode="before")
    @classmethod
    def _fill_base_url(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("base_url") is None:
            return raw
        upstreams = raw.get("upstreams")
        if not isinstance(upstreams, dict):
            return raw
        return {**raw, "upstreams": with_base_url(upstreams, raw["base_url"])}
