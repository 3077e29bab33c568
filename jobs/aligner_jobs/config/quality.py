"""Which rows are fit to train on."""

from typing import Annotated, Literal

from pydantic import Field

from aligner.config import StrictModel
from aligner.decontamination import MIN_WORDS
from aligner.redaction import ENTITIES, Entity
from aligner_jobs.config.sources import Source


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

    max_similarity: float = Field(default=1.0, ge=0.0, le=1.0)
    """Drop edits that share more words with the answer than this; identity rows stay."""

    min_length_ratio: float = Field(default=0.0, ge=0.0, le=1.0)
    """Shortest correction, as a share of its answer's length."""

    max_length_ratio: float | None = Field(default=None, ge=1.0)
    """Longest correction, as a multiple of its answer's length; unset: any."""

    drop_echoes: bool = False
    """Drop corrections that repeat the question first."""

    drop_template_leaks: bool = True
    """Drop corrections that hold a piece of a built-in prompt or of a chat template which neither
    question nor answer holds."""

    drop_new_refusals: bool = False
    """Drop corrections that refuse where the answer did not. Harmful questions deserve a refusal:
    this is for sets of harmless ones."""

    drop_refused_answers: bool = False
    """Drop rows whose answer refuses."""

    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2}$")], ...] = ()
    """Languages that texts may be in, as ISO 639-1 codes (``[en, de]``); none: any."""

    min_language_chars: int = Field(default=80, ge=1)
    """Shorter texts are not asked for their language; nobody can tell."""


class Pii(StrictModel):
    """Personal data in questions, answers, corrections and earlier turns."""

    entities: tuple[Entity, ...] = Field(default=ENTITIES, min_length=1)
    """Which kinds to look for. Names of people are not among them: no pattern finds those."""

    phone_region: str = Field(default="US", pattern="^[A-Z]{2}$")
    """Country of the phone numbers that are written without a country code."""

    action: Literal["redact", "drop"] = "redact"
    """Put ``<EMAIL_ADDRESS>`` and the like in their place, or drop the row."""


class NearDuplicates(StrictModel):
    """Which rows say almost the same as another; ``near_duplicates: {}`` turns the search on."""

    threshold: float = Field(default=0.8, ge=0.5, lt=1.0)
    """Rows fall whose shingles, of question and answer, are shared with an earlier row to this
    share (Jaccard's similarity) or more."""

    shingle_words: int = Field(default=3, ge=1)
    """Words of a shingle; longer ones tell apart what is in the same words in another order."""


class HeldoutQuestions(StrictModel):
    """The held-out questions of another dataset."""

    kind: Literal["heldout"]

    dataset: str
    """Folder or ``s3://`` prefix of the dataset."""


EvaluationSet = Annotated[Source | HeldoutQuestions, Field(discriminator="kind")]


class Decontamination(StrictModel):
    """Which questions are kept out of the dataset because an evaluation asks them."""

    against: dict[str, EvaluationSet] = Field(min_length=1)
    """Sources of evaluation questions, by names that the funnel's reasons keep."""

    ngram_words: int = Field(default=13, ge=MIN_WORDS)
    """A question that shares so many words in a row with an evaluation question is dropped, and
    one that holds all words of a shorter evaluation question."""
