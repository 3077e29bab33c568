"""The identity warm-up (paper, section 2, "Residual Correction"): copy before correcting."""

from collections.abc import Sequence
from dataclasses import replace

from aligner.records import Triple
from aligner.splits import unit_hash

DEFAULT_SHARE = 0.2
"""Share of the training rows that the paper found best (10K of 50K)."""


def identity_row(row: Triple) -> Triple:
    """The Q-A-A row of a Q-A-C row: its answer is the target."""
    return replace(row, correction=row.answer)


def warmup_rows(rows: Sequence[Triple], *, share: float) -> list[Triple]:
    """Identity rows for ``round(share * len(rows))`` of ``rows``, drawn by content hash.

    A smaller share's rows are among those of a larger one. Order follows ``rows``.
    """
    ranked = sorted(rows, key=lambda row: unit_hash(row.row_id, salt="warmup"))
    chosen = {row.row_id for row in ranked[: round(share * len(rows))]}
    return [identity_row(row) for row in rows if row.row_id in chosen]
