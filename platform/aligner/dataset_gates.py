"""The gate before a dataset is published: thresholds on what its rows are like as a whole."""

from dataclasses import dataclass

from pydantic import Field

from aligner.config import StrictModel
from aligner.gates import Check, at_least, at_most


class DatasetGates(StrictModel):
    """Thresholds; a value that equals its threshold passes. The defaults stop what is absurd."""

    max_copy_rate: float = Field(default=0.8, ge=0.0, le=1.0)
    """Share of the rows whose correction is the answer. Above it the upstreams are too good, or
    the teacher does not correct; an Aligner trained on that learns to copy."""

    min_mean_similarity: float = Field(default=0.05, ge=0.0, le=1.0)
    """Mean similarity of answer and correction (difflib's ratio over words, 1 for a copy). Edits
    come to 0.5 and more, hh-rlhf's preference pairs to 0.13, texts of one language that have
    nothing to do with each other to 0.06: the default permits pairs."""

    max_dropped_share: float = Field(default=0.9, ge=0.0, le=1.0)
    """Share of the finished rows that filters and duplicates may take; the paper's took a third."""


@dataclass(frozen=True, slots=True)
class DatasetNumbers:
    """What the gates look at."""

    copy_rate: float
    mean_similarity: float
    dropped_share: float


def hold(numbers: DatasetNumbers, gates: DatasetGates) -> tuple[Check, ...]:
    """Hold ``numbers`` against every threshold, in the order of the fields of ``gates``."""
    return (
        at_most("max_copy_rate", numbers.copy_rate, gates.max_copy_rate),
        at_least("min_mean_similarity", numbers.mean_similarity, gates.min_mean_similarity),
        at_most("max_dropped_share", numbers.dropped_share, gates.max_dropped_share),
    )
