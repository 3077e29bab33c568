"""Who corrects: teachers, and what they correct by; and the judge of what they made."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from aligner import pairwise, teaching
from aligner.config import StrictModel, load
from aligner.teaching import Principles
from aligner_jobs.config.aligner import AlignerModel
from aligner_jobs.config.asking import ApiModel, LocalUpstream
from aligner_jobs.config.keeping import StoredKeep
from aligner_jobs.programs import shipped_config


def _shipped_principles() -> Principles:
    return load(Principles, shipped_config("jobs", "principles/default.yaml"))


class _Sharing(StrictModel):
    share: float = Field(default=1.0, gt=0.0)
    """Of the answers that it corrects, relative to the shares of the other teachers; which ones
    is drawn by their content."""


class SimworldTeacher(_Sharing):
    """The perfect teacher of the simulated world, in memory."""

    kind: Literal["simworld"]


class OpenAITeacher(ApiModel, _Sharing):
    """A model that corrects, behind an API."""

    kind: Literal["openai"]

    principles: Principles = Field(default_factory=_shipped_principles)
    """What makes an answer good: a YAML file like ``configs/principles/default.yaml`` (the
    default), or its content. The job keeps the content, not the path."""

    critique: bool = False
    """Ask what is wrong with the answer first, then for the correction; twice the requests."""

    critique_instruction: str = teaching.CRITIQUE
    """The wish for a critique, after the principles."""

    instruction: str = teaching.INSTRUCTION
    """The wish for a correction, after the principles. A reply of ``<keep/>`` alone leaves the
    answer as it is, so say when to give it."""

    @field_validator("principles", mode="before")
    @classmethod
    def _read_principles(cls, value: object) -> object:
        return load(Principles, Path(value)) if isinstance(value, str) else value


class AlignerTeacher(AlignerModel, _Sharing):
    """An Aligner that was trained before; the job runs it itself, with vLLM."""

    kind: Literal["aligner"]

    keep: StoredKeep | None = None
    """Return answers without decoding in which it has no doubt, and read every other one before
    anything is decoded; unset: each correction is decoded from its first token."""


Teacher = Annotated[SimworldTeacher | OpenAITeacher | AlignerTeacher, Field(discriminator="kind")]


LocalModel = LocalUpstream | AlignerTeacher
"""What a job runs itself, and asks by way of the kept replies."""


class OpenAIJudge(ApiModel):
    """A model that compares each answer with its correction, behind an API."""

    kind: Literal["openai"]

    instruction: str = pairwise.INSTRUCTION
    """Its system message; replies must name one of ``[[first]]``, ``[[second]]``, ``[[tie]]``."""

    keep_ties: bool = False
    """Keep rows whose correction it finds as good as the answer, or that it decides by position."""


def as_teachers(raw: dict[Any, Any]) -> dict[Any, Any]:
    """Unvalidated settings with a single ``teacher`` as the only one of ``teachers``.

    Raises:
        ValueError: Both are given.
    """
    settings = dict(raw)
    teacher = settings.pop("teacher", None)
    if teacher is None:
        return settings
    if settings.get("teachers"):
        raise ValueError("give either teacher or teachers; name the one among the others")
    return {**settings, "teachers": {"teacher": teacher}}


def over_http(teachers: dict[Any, Any]) -> dict[Any, Any]:
    """Those of unvalidated ``teachers`` that are asked over HTTP."""
    return {
        name: one
        for name, one in teachers.items()
        if isinstance(one, dict) and one.get("kind") == "openai"
    }
