"""Which rows are fit to train on."""

from pydantic import Field

from aligner.config import StrictModel


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
