"""What is told of a shadow's work: counts on Ray's metrics endpoint, and a line in the log."""

import json
import logging
from typing import Any

from aligner_serve.routing import Comparison

_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


class RayComparisons:
    """Counts with ``ray.util.metrics`` and logs every disagreement; no text goes into either."""

    def __init__(self) -> None:
        """Register the metrics of this process."""
        from ray.util import metrics

        self._count: Any = metrics.Counter(
            "aligner_shadow_corrections",
            "Corrections by a shadow, against the champion's (same, different, failed, skipped).",
            ("aligner", "verdict", "reason"),
        )
        self._similarity: Any = metrics.Histogram(
            "aligner_shadow_similarity",
            "Of a shadow's correction to the champion's, over words.",
            list(_RATIOS),
            ("aligner",),
        )
        # Below Serve's own logger: its handlers write into the replica's file.
        self._log = logging.getLogger("ray.serve.aligner_shadow")

    def __call__(self, compared: Comparison) -> None:
        """Count one comparison."""
        self._count.inc(
            tags={
                "aligner": compared.aligner,
                "verdict": compared.verdict,
                "reason": compared.reason or "",
            }
        )
        if compared.similarity is not None:
            self._similarity.observe(compared.similarity, tags={"aligner": compared.aligner})
        if compared.verdict in ("different", "failed"):
            self._log.info(_line(compared))


def _line(compared: Comparison) -> str:
    """As JSON, for those who search logs by field."""
    return json.dumps(
        {
            "event": "shadow",
            "aligner": compared.aligner,
            "verdict": compared.verdict,
            "champion": compared.champion,
            "challenger": compared.challenger or None,
            "similarity": compared.similarity and round(compared.similarity, 4),
            "reason": compared.reason,
        }
    )
