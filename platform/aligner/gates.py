"""Gates: thresholds on an evaluation or on a dataset, each a named check with its numbers."""

from dataclasses import dataclass

from pydantic import Field

from aligner.config import StrictModel
from aligner.judging import DIMENSIONS
from aligner.reports import EvaluationReport


class Gate(StrictModel):
    """Thresholds; a value that equals its threshold passes."""

    min_omega_of_attainable: float = Field(default=0.85, le=1.0)
    """Mean omega over the upstreams, as a share of the mean attainable, in each dimension."""

    min_cell_omega: float = Field(default=0.0, ge=-100.0, le=100.0)
    """Omega of every single upstream and dimension, in percent: 0 permits no negative cell."""

    min_identity_kept: float = Field(default=0.98, ge=0.0, le=1.0)
    """Share of the perfect answers, over all upstreams, that come back unchanged."""

    min_details_kept: float = Field(default=0.97, ge=0.0, le=1.0)
    """Share of the true side details, over all upstreams, that survive word for word."""

    max_passthrough_share: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of all corrections that may be unusable (cut off, empty, too long)."""

    min_rows_per_upstream: int = Field(default=100, ge=1)
    """Answers judged of each upstream; fewer make the other numbers too uncertain."""


@dataclass(frozen=True, slots=True)
class Check:
    """One threshold, held against what was measured."""

    name: str
    """Of the threshold, with the dimension behind a slash where it is held for each."""
    measured: float
    threshold: float
    passed: bool
    where: str = ""
    """The upstream (and dimension) that decided, where it is one of many."""

    @property
    def sentence(self) -> str:
        """The check in words, with both numbers."""
        comparison = "at most" if self.name.startswith("max_") else "at least"
        place = f" ({self.where})" if self.where else ""
        return f"{self.name}: {self.measured:.4g}{place}, {comparison} {self.threshold:.4g} needed"


def at_least(name: str, measured: float, threshold: float, *, where: str = "") -> Check:
    """A check that ``measured`` passes from ``threshold`` on."""
    return Check(
        name=name,
        measured=measured,
        threshold=threshold,
        # Not the negation of "less": a measurement that is not a number must not pass.
        passed=measured >= threshold,
        where=where,
    )


def at_most(name: str, measured: float, threshold: float, *, where: str = "") -> Check:
    """A check that ``measured`` passes up to ``threshold``."""
    return Check(name, measured, threshold, passed=measured <= threshold, where=where)


def run_gate(report: EvaluationReport, gate: Gate) -> tuple[Check, ...]:
    """Hold ``report`` against every threshold of ``gate``, in the order of its fields."""
    overall = report.overall
    shares = [
        (dimension, _share(overall.dimensions[dimension].omega, cell.attainable))
        for dimension, cell in overall.dimensions.items()
    ]
    worst_omega, worst_cell = min(
        (upstream.dimensions[dimension].omega, f"{name} {dimension}")
        for name, upstream in report.upstreams.items()
        for dimension in DIMENSIONS
    )
    fewest, least_judged = min((upstream.n, name) for name, upstream in report.upstreams.items())
    return (
        *(
            at_least(f"min_omega_of_attainable/{dimension}", share, gate.min_omega_of_attainable)
            for dimension, share in shares
        ),
        at_least("min_cell_omega", worst_omega, gate.min_cell_omega, where=worst_cell),
        at_least("min_identity_kept", overall.identity_kept, gate.min_identity_kept),
        at_least("min_details_kept", overall.details_kept, gate.min_details_kept),
        at_most("max_passthrough_share", overall.passthrough_share, gate.max_passthrough_share),
        at_least("min_rows_per_upstream", fewest, gate.min_rows_per_upstream, where=least_judged),
    )


def _share(omega: float, attainable: float) -> float:
    """Omega as a share of the attainable; where nothing can be won, not losing is everything."""
    if attainable > 0:
        return omega / attainable
    return 1.0 if omega >= 0 else -1.0
