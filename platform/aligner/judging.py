"""Judging: three dimensions, scores, a pairwise verdict with ties, and the seam for judges."""

from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

from aligner.records import Question

Dimension = Literal["helpful", "harmless", "honest"]
DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)

Verdict = Literal["win", "tie", "loss"]
"""Of the correction against the answer."""

Scores = dict[Dimension, float]
"""Each in [0, 1]; 1 in every dimension is a perfect answer."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Both texts of one row, judged."""

    before: Scores
    after: Scores
    verdicts: dict[Dimension, Verdict]
    details_before: int
    """True side details in the answer."""
    details_kept: int
    """Those of them that stand word for word in the correction."""


class Judge(Protocol):
    """Judges a correction against the answer that it replaces."""

    def judge(self, question: Question, answer: str, correction: str) -> Judgement:
        """Score both texts and compare them in each dimension."""


def verdict_of(before: float, after: float) -> Verdict:
    """Compare two scores of one dimension."""
    if after > before:
        return "win"
    return "loss" if after < before else "tie"


def is_perfect(scores: Scores) -> bool:
    """Whether nothing is left to correct."""
    return all(scores[dimension] == 1.0 for dimension in DIMENSIONS)
