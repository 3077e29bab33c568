"""Corpus metrics of correcting: how much is copied, how much is changed."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class CopyStats:
    """Over many rows; all in [0, 1], 0 for no rows."""

    rows: int
    copy_rate: float
    """Share of rows returned byte for byte."""
    similarity: float
    """Mean :func:`similarity` of answer and correction."""


def copy_stats(pairs: Iterable[tuple[str, str]]) -> CopyStats:
    """Of (answer, correction) pairs."""
    rows = copied = 0
    total = 0.0
    for answer, correction in pairs:
        rows += 1
        copied += answer == correction
        total += similarity(answer, correction)
    if not rows:
        return CopyStats(rows=0, copy_rate=0.0, similarity=0.0)
    return CopyStats(rows=rows, copy_rate=copied / rows, similarity=total / rows)


def similarity(answer: str, correction: str) -> float:
    """1 for equal texts, 0 for texts without a common word (difflib's ratio over words)."""
    if answer == correction:
        return 1.0
    return difflib.SequenceMatcher(
        None, _WORD.findall(answer), _WORD.findall(correction), autojunk=False
    ).ratio()
