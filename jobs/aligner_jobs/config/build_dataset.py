"""Settings of ``aligner build-dataset``."""

from typing import Any, Self

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.dataset_gates import DatasetGates
from aligner.prompt import PromptChoice
from aligner.tracking import TrackingConfig
from aligner.warmup import DEFAULT_SHARE
from aligner_jobs.config.asking import TRANSPORT, AnyUpstream, with_base_url
from aligner_jobs.config.output import Mix, Packing, mix_problem
from aligner_jobs.config.quality import Decontamination, FilterConfig, NearDuplicates, Pii
from aligner_jobs.config.sources import SimworldSource, Source, brings
from aligner_jobs.config.teaching import (
    OpenAIJudge,
    SimworldTeacher,
    Teacher,
    as_teachers,
    over_http,
)

_RUNNING = ("out", "tracking", "workers", "base_url", "replies")
_LIMITS = ("max_bad_share", "max_failed_share", "gates")
_NOT_CONTENT = (*_RUNNING, *_LIMITS)


class BuildDatasetConfig(StrictModel):
    """Questions or ready pairs to a filtered, split dataset of triples."""

    out: str
    """Folder or ``s3://`` prefix of the dataset; must not exist."""

    name: str = "dataset"
    """Of the dataset, for people and in tracking."""

    seed: int = 0
    """Of the simulated world, where a source or the teacher is of kind ``simworld``."""

    base_url: str | None = None
    """Of every upstream, teacher and judge that names none of its own."""

    sources: dict[str, Source] = Field(min_length=1)
    """By a name of your choice, which the rows keep."""

    upstreams: dict[str, AnyUpstream] = Field(default={})
    """By a name of your choice, which the rows keep; each answers every question."""

    teachers: dict[str, Teacher] = Field(default={})
    """By a name of your choice, which the rows keep. They share the upstreams' answers between
    them; none for sources that bring corrections. A single one may also stand under ``teacher``."""

    judge: OpenAIJudge | None = None
    """Drops corrections that are no better than their answers; not asked for identity rows."""

    pii: Pii | None = None
    """What to do about personal data, in every text before it is sent to a model and in the
    corrections; unset: nothing."""

    filters: FilterConfig = FilterConfig()
    """Which rows are noise."""

    decontamination: Decontamination | None = None
    """Which questions are left to evaluations; dropped before anybody answers them."""

    near_duplicates: NearDuplicates | None = None
    """Which rows say almost the same as another; unset, only equal rows are dropped."""

    mix: Mix = Field(default={})
    """Source to its share of the rows, in any unit; what is too much of a source is dropped, as
    little as possible. Names all sources, or none: then every row stays."""

    gates: DatasetGates = DatasetGates()
    """What the rows as a whole must be like; otherwise nothing is published but a page on why."""

    heldout_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the questions kept out of training, drawn by their content."""

    warmup_share: float = Field(default=DEFAULT_SHARE, ge=0.0, le=0.5)
    """Identity rows, as a share of the training rows."""

    prompt: PromptChoice = PromptChoice()
    """How question and answer become text; travels with the dataset to training and serving."""

    packing: Packing | None = None
    """Write the rows as packed tokens, too; unset: texts alone."""

    max_bad_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of a file's rows that may be unusable; above it the job fails."""

    max_failed_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of an upstream's (or the teacher's) requests that may fail; above it the job fails."""

    workers: int = Field(default=2, ge=1)
    """Processes that ask upstreams, and as many that ask the teacher."""

    replies: str | None = None
    """Folder or ``s3://`` prefix for every reply that was paid for: asked the same again, no model
    is. Unset: beside ``out``, under its name and ``.replies``."""

    tracking: TrackingConfig = TrackingConfig()
    """Where the run is recorded."""

    @property
    def asks(self) -> bool:
        """Whether any model is asked: for answers, or for corrections alone."""
        return any(brings(source) != "corrections" for source in self.sources.values())

    @property
    def asks_upstreams(self) -> bool:
        """Whether any source brings questions without answers."""
        return any(brings(source) == "questions" for source in self.sources.values())

    @property
    def rows_per_question(self) -> int:
        """Rows that one question may become: upstreams times samples."""
        return sum(upstream.samples_per_question for upstream in self.upstreams.values())

    def rows_per_record(self, source: str) -> int:
        """Rows that one row of a source may become; 1 for sources that bring answers."""
        return self.rows_per_question if brings(self.sources[source]) == "questions" else 1

    def identity(self) -> dict[str, Any]:
        """The settings that decide what the rows are; two jobs alike in it make equal datasets.

        An endpoint counts by its model, not by its address: the same server may come up on
        another port.
        """
        dump = self.model_dump(mode="json", exclude=set(_NOT_CONTENT))
        endpoints = (dump["upstreams"], dump["teachers"], {"judge": dump["judge"] or {}})
        for endpoint in (one for group in endpoints for one in group.values()):
            for key in TRANSPORT:
                endpoint.pop(key, None)
        return dump

    @model_validator(mode="before")
    @classmethod
    def _fill_base_url(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        filled = as_teachers(raw)
        if (base_url := raw.get("base_url")) is None:
            return filled
        if isinstance(upstreams := raw.get("upstreams"), dict):
            filled["upstreams"] = with_base_url(upstreams, base_url)
        if isinstance(teachers := filled.get("teachers"), dict):
            filled["teachers"] = {**teachers, **with_base_url(over_http(teachers), base_url)}
        if isinstance(judge := raw.get("judge"), dict):
            filled["judge"] = {"base_url": base_url, **judge}
        return filled

    @model_validator(mode="after")
    def _questions_are_answered_and_corrected(self) -> Self:
        if self.asks_upstreams and not self.upstreams:
            raise ValueError("sources of questions need at least one upstream; add upstreams")
        if self.asks and not self.teachers:
            raise ValueError("sources of questions or answers need a teacher; add teacher")
        if self.upstreams and not self.asks_upstreams:
            raise ValueError(
                "upstreams are for sources of questions, and there is none; "
                "remove them or add such a source"
            )
        if self.teachers and not self.asks:
            raise ValueError(
                "teachers are for sources of questions or answers, and there is none; "
                "remove them or add such a source"
            )
        return self

    @model_validator(mode="after")
    def _mix_names_the_sources(self) -> Self:
        if self.mix and (problem := mix_problem(self.mix, set(self.sources))):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _simworld_teaches_its_own(self) -> Self:
        if any(isinstance(teacher, SimworldTeacher) for teacher in self.teachers.values()):
            for name, source in self.sources.items():
                if brings(source) != "corrections" and not isinstance(source, SimworldSource):
                    raise ValueError(
                        f"the simworld teacher knows nothing of source {name!r}; "
                        "use a teacher of kind openai"
                    )
        return self
