"""The identity warm-up (paper, section 2, "Residual Correction"): copy before correcting."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from aligner.records import Triple
from aligner.splits import unit_hash

DEFAULT_SHARE = 0.2
"""Share of the training rows that the paper found best (10K of 50K)."""


def identity_row(row: Triple) -> Triple:
    """The Q-A-A row of a Q-A-C row: its answer is the target."""
    return replace(row, correction=row.answer)


def chosen_ids(row_ids: Iterable[str], *, share: float) -> frozenset[str]:
    """``round(share * n)`` of ``n`` row ids, drawn by content hash.

    A smaller share's ids are among those of a larger one.
    """
    ranked = sorted(row_ids, key=lambda row_id: unit_hash(row_id, salt="warmup"))
    return frozenset(ranked[: round(share * len(ranked))])


def warmup_rows(rows: Sequence[Triple], *, share: float) -> list[Triple]:
    """Identity rows of those that :func:`chosen_ids` draws. Order follows ``rows``."""
    chosen = chosen_ids((row.row_id for row in rows), share=share)
    return [identity_row(row) for row in rows if row.row_id in chosen]
