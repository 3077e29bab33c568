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


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of an answer and its correction, over words and marks of punctuation."""

    similarity: float
    """1 for equal texts, 0 for texts without a common word (difflib's ratio)."""
    removed: int
    """Words of the answer that the correction has not."""
    added: int
    """Words of the correction that the answer had not."""


def compare(answer: str, correction: str) -> Comparison:
    """How far ``correction`` is from ``answer``; takes time by the product of their lengths."""
    if answer == correction:
        return Comparison(1.0, 0, 0)
    before, after = _WORD.findall(answer), _WORD.findall(correction)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    kept = sum(block.size for block in matcher.get_matching_blocks())
    return Comparison(matcher.ratio(), len(before) - kept, len(after) - kept)


def similarity(answer: str, correction: str) -> float:
    """:attr:`Comparison.similarity` alone."""
    return compare(answer, correction).similarity
