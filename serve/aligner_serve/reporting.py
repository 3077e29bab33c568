"""What clients are told of a reply: outcome, edits, stages, and the original where it is due."""

from typing import Final

from aligner.metrics import compare
from aligner_serve import replies
from aligner_serve.pipeline import Reply, StageReport

_MAX_COMPARED_CHARS: Final = 20_000
"""Comparing two texts takes time by the product of their lengths; longer ones go without."""


def report(end: Reply, *, shown: bool) -> replies.AlignerReport:
    """The field ``aligner`` of ``end``; ``shown`` puts the upstream's own answer in."""
    alike, edits = None, None
    withheld = end.outcome == "blocked"
    if not withheld and max(len(end.text), len(end.answer)) <= _MAX_COMPARED_CHARS:
        compared = compare(end.answer, end.text)
        alike = round(compared.similarity, 4)
        edits = replies.Edits(words_removed=compared.removed, words_added=compared.added)
    return replies.AlignerReport(
        outcome=end.outcome,
        reason=end.reason,
        upstream=_last(end, "upstream"),
        version=_last(end, "corrector"),
        similarity=alike,
        edits=edits,
        stages=[replies.stage_info(one) for one in end.stages if one.name],
        # A withheld answer is withheld from those who ask for the original, too.
        original=end.answer if shown and not withheld else None,
    )


def _last(end: Reply, stage: str) -> str | None:
    """Who did ``stage``, the last time that it was done."""
    done: list[StageReport] = [one for one in end.stages if one.stage == stage and one.by]
    return done[-1].by if done else None
