"""Where rows come from: the sources of ``aligner build-dataset``."""

from typing import Annotated, Literal, assert_never

from pydantic import Field

from aligner.config import StrictModel


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
