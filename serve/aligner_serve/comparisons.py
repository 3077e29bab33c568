"""What is told of a shadow's work: counts on Ray's metrics endpoint, and a line in the log."""

import logging
from typing import Any

from aligner_serve.request_log import LOGGER
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
        self._log = logging.getLogger(LOGGER)

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
            self._log.info("shadow", extra=line(compared))


def line(compared: Comparison) -> dict[str, Any]:
    """The fields of a comparison's line."""
    alike = compared.similarity
    return {
        "event": "shadow",
        "aligner": compared.aligner,
        "verdict": compared.verdict,
        "champion": compared.champion,
        "challenger": compared.challenger or None,
        "similarity": None if alike is None else round(alike, 4),
        "reason": compared.reason,
    }
