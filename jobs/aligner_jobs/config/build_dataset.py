"""Settings of ``aligner build-dataset``."""

from typing import Any, Self

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.prompt import PromptChoice
from aligner.tracking import TrackingConfig
from aligner.warmup import DEFAULT_SHARE
from aligner_jobs.config.asking import SimworldTeacher, Teacher, Upstream, with_base_url
from aligner_jobs.config.quality import FilterConfig
from aligner_jobs.config.sources import QuestionsSource, Source, brings_questions

_NOT_CONTENT = ("out", "tracking", "workers", "base_url", "max_bad_share", "max_failed_share")
_TRANSPORT = ("base_url", "api_key_env", "timeout_s", "max_attempts", "max_in_flight")


class BuildDatasetConfig(StrictModel):
    """Questions or ready pairs to a filtered, split dataset of triples."""

    out: str
    """Folder or ``s3://`` prefix of the dataset; must not exist."""

    name: str = "dataset"
    """Of the dataset, for people and in tracking."""

    seed: int = 0
    """Of the simulated world, where a source or the teacher is of kind ``simworld``."""

    base_url: str | None = None
    """Of every upstream and teacher that names none of its own."""

    sources: dict[str, Source] = Field(min_length=1)
    """By a name of your choice, which the rows keep."""

    upstreams: dict[str, Upstream] = Field(default={})
    """By a name of your choice, which the rows keep; each answers every question."""

    teacher: Teacher | None = None
    """Corrects the upstreams' answers; none for sources that bring corrections."""

    filters: FilterConfig = FilterConfig()
    """Which rows are noise."""

    heldout_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the questions kept out of training, drawn by their content."""

    warmup_share: float = Field(default=DEFAULT_SHARE, ge=0.0, le=0.5)
    """Identity rows, as a share of the training rows."""

    prompt: PromptChoice = PromptChoice()
    """How question and answer become text; travels with the dataset to training and serving."""

    max_bad_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of a file's rows that may be unusable; above it the job fails."""

    max_failed_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of an upstream's (or the teacher's) requests that may fail; above it the job fails."""

    workers: int = Field(default=2, ge=1)
    """Processes that ask upstreams, and as many that ask the teacher."""

    tracking: TrackingConfig = TrackingConfig()
    """Where the run is recorded."""

    @property
    def asks(self) -> bool:
        """Whether any source brings questions without answers."""
        return any(brings_questions(source) for source in self.sources.values())

    @property
    def rows_per_question(self) -> int:
        """Rows that one question may become: upstreams times samples."""
        return sum(upstream.samples_per_question for upstream in self.upstreams.values())

    def rows_per_record(self, source: str) -> int:
        """Rows that one row of a source may become; 1 for sources that bring corrections."""
        return self.rows_per_question if brings_questions(self.sources[source]) else 1

    def identity(self) -> dict[str, Any]:
        """The settings that decide what the rows are; two jobs alike in it make equal datasets.

        An endpoint counts by its model, not by its address: the same server may come up on
        another port.
        """
        dump = self.model_dump(mode="json", exclude=set(_NOT_CONTENT))
        for endpoint in (*dump["upstreams"].values(), dump["teacher"] or {}):
            for key in _TRANSPORT:
                endpoint.pop(key, None)
        return dump

    @model_validator(mode="before")
    @classmethod
    def _fill_base_url(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("base_url") is None:
            return raw
        filled = dict(raw)
        if isinstance(upstreams := raw.get("upstreams"), dict):
            filled["upstreams"] = with_base_url(upstreams, raw["base_url"])
        if isinstance(teacher := raw.get("teacher"), dict) and teacher.get("kind") == "openai":
            filled["teacher"] = {"base_url": raw["base_url"], **teacher}
        return filled

    @model_validator(mode="after")
    def _questions_are_answered_and_corrected(self) -> Self:
        if self.asks and not self.upstreams:
            raise ValueError("sources of questions need at least one upstream; add upstreams")
        if self.asks and self.teacher is None:
            raise ValueError("sources of questions need a teacher; add teacher")
        if not self.asks and (self.upstreams or self.teacher):
            raise ValueError(
                "upstreams and teacher are for sources of questions, and there is none; "
                "remove them or add such a source"
            )
        return self

    @model_validator(mode="after")
    def _simworld_teaches_its_own(self) -> Self:
        if isinstance(self.teacher, SimworldTeacher):
            for name, source in self.sources.items():
                if isinstance(source, QuestionsSource):
                    raise ValueError(
                        f"the simworld teacher knows nothing of source {name!r}; "
                        "use a teacher of kind openai"
                    )
        return self
