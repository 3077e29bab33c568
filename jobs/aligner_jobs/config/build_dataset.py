"""Settings of ``aligner build-dataset``."""

from typing import Annotated, Any, Literal, Self, assert_never

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.generation import Endpoint, Sampling
from aligner.prompt import PromptChoice
from aligner.tracking import TrackingConfig
from aligner.warmup import DEFAULT_SHARE

INSTRUCTION = (
    "Please correct your last answer. Replace what is false, take out what is harmful or "
    "impolite, and add what was asked for but is missing; change as little as you can, and keep "
    "every sentence that is right word for word. If nothing is wrong with the answer, repeat it "
    "as it is. Reply with the corrected answer and nothing else."
)
"""What a teacher behind an API is asked after it was shown the question and the answer."""

_NOT_CONTENT = ("out", "tracking", "workers", "base_url", "max_bad_share", "max_failed_share")
_TRANSPORT = ("base_url", "api_key_env", "timeout_s", "max_attempts", "max_in_flight")


class SimworldSource(StrictModel):
    """Training questions of the simulated world, made in memory."""

    kind: Literal["simworld"]

    limit: int = Field(default=6000, ge=1)
    """Number of questions."""


class QuestionsSource(StrictModel):
    """Questions alone; upstreams answer them and the teacher corrects."""

    kind: Literal["questions"]

    path: str
    """A JSONL file or JSON array (also ``.gz``), a folder of such files, or a glob."""

    question_column: str = "question"
    """Holds the question."""

    history_column: str | None = None
    """Holds earlier turns as a list of ``{role, text}`` or ``{role, content}``."""


class _TripleSource(StrictModel):
    """Rows that hold a question, an answer and its correction."""

    path: str
    """A JSONL file or JSON array (also ``.gz``), a folder of such files, or a glob."""

    question_column: str = "question"
    """Holds the question."""

    answer_column: str = "answer"
    """Holds the answer to correct."""

    correction_column: str = "correction"
    """Holds the corrected answer."""

    upstream_column: str | None = None
    """Holds the name of the model that answered, where the source says."""

    history_column: str | None = None
    """Holds earlier turns as a list of ``{role, text}`` or ``{role, content}``."""


class QacSource(_TripleSource):
    """Ready triples, as the paper publishes them."""

    kind: Literal["qac"]


class RevisionsSource(_TripleSource):
    """Revisions in several steps, one row per step: each step's answer is the one to correct."""

    kind: Literal["revisions"]

    step_column: str = "step"
    """Holds the number of the step, 1 for the first."""

    last_step: int | None = Field(default=None, ge=1)
    """Leave later steps out, which correct less and less; unset: take all."""


class PreferenceSource(StrictModel):
    """Preference pairs: the dispreferred reply is the answer, the preferred its correction."""

    kind: Literal["preference"]

    path: str
    """A JSONL file or JSON array (also ``.gz``), a folder of such files, or a glob."""

    layout: Literal["columns", "transcript"]
    """``columns``: question, chosen and rejected apart; ``transcript``: chosen and rejected are
    whole conversations with the marks ``Human:`` and ``Assistant:``, as in hh-rlhf."""

    question_column: str = "question"
    """Holds the question (``columns`` only)."""

    chosen_column: str = "chosen"
    """Holds the preferred reply or conversation."""

    rejected_column: str = "rejected"
    """Holds the dispreferred one."""

    history_column: str | None = None
    """Holds earlier turns (``columns`` only); a transcript carries them itself."""


Source = Annotated[
    SimworldSource | QuestionsSource | QacSource | RevisionsSource | PreferenceSource,
    Field(discriminator="kind"),
]


def brings_questions(source: Source) -> bool:
    """Whether ``source`` has questions alone, for upstreams to answer and a teacher to correct."""
    match source:
        case SimworldSource() | QuestionsSource():
            return True
        case QacSource() | RevisionsSource() | PreferenceSource():
            return False
        case unreachable:
            assert_never(unreachable)


class Upstream(Endpoint):
    """A model whose answers are to be corrected."""

    sampling: Sampling = Sampling()
    """How it decodes."""

    samples_per_question: int = Field(default=1, ge=1, le=128)
    """Answers to each question; more than one needs a temperature above 0 to differ."""

    max_in_flight: int = Field(default=16, ge=1)
    """Requests of one worker that this upstream answers at the same time."""


class SimworldTeacher(StrictModel):
    """The perfect teacher of the simulated world, in memory."""

    kind: Literal["simworld"]


class OpenAITeacher(Endpoint):
    """A model that corrects, behind an API."""

    kind: Literal["openai"]

    sampling: Sampling = Sampling()
    """How it decodes."""

    instruction: str = INSTRUCTION
    """The request that follows the question and the answer."""

    max_in_flight: int = Field(default=16, ge=1)
    """Requests of one worker that it answers at the same time."""


Teacher = Annotated[SimworldTeacher | OpenAITeacher, Field(discriminator="kind")]


class FilterConfig(StrictModel):
    """Which rows are noise; rows with blank text or broken Unicode always are."""

    max_chars: int = Field(default=8000, ge=1)
    """Longest question, answer or correction, in Unicode code points."""

    drop_unchanged: bool = False
    """Drop rows whose correction is the answer; they teach to leave good answers alone."""

    drop_whitespace_edits: bool = True
    """Drop rows whose correction differs from the answer in white space only."""

    min_similarity: float = Field(default=0.0, ge=0.0, le=1.0)
    """Drop corrections that share fewer words with the answer: they are other answers, not edits
    of it. Preference pairs are mostly below 0.3, real edits mostly above."""


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


def with_base_url(endpoints: dict[Any, Any], base_url: object) -> dict[Any, Any]:
    """Unvalidated ``endpoints``, by name, with ``base_url`` where one names none of its own."""
    return {
        name: {"base_url": base_url, **one} if isinstance(one, dict) else one
        for name, one in endpoints.items()
    }
