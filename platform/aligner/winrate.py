"""The paper's metric: omega = (wins - losses) / (wins + losses + ties), equation 5."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aligner.judging import Verdict

_Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class WinRate:
    """Counts of verdicts and what follows from them; all rates in [-1, 1]."""

    wins: int
    losses: int
    ties: int

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> "WinRate":
        """Count ``verdicts``."""
        counts = {"win": 0, "loss": 0, "tie": 0}
        for verdict in verdicts:
            counts[verdict] += 1
        return cls(wins=counts["win"], losses=counts["loss"], ties=counts["tie"])

    @property
    def total(self) -> int:
        """Number of verdicts."""
        return self.wins + self.losses + self.ties

    @property
    def omega(self) -> float:
        """Net win margin; NaN without verdicts."""
        return (self.wins - self.losses) / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of omega for paired verdicts.

        Agresti and Min (2005), "Simple improved confidence intervals for comparing matched
        proportions": half a verdict is added to each cell of the 2x2 table, so that it stays
        honest (of positive width) when there is not one loss.
        """
        if not self.total:
            return (math.nan, math.nan)
        centre = (self.wins - self.losses) / (self.total + 2)
        return _within(centre, self.spread)

    @property
    def spread(self) -> float:
        """Half the width of :attr:`interval` before it is cut at -1 and 1."""
        if not self.total:
            return math.nan
        n = self.total + 2
        decided, net = self.wins + self.losses + 1, self.wins - self.losses
        return _Z_95 * math.sqrt(decided - net**2 / n) / n


def mean_omega(rates: Sequence[WinRate]) -> float:
    """Plain mean over upstreams, as in the rows "Average" of the paper's Table 1."""
    return sum(rate.omega for rate in rates) / len(rates) if rates else math.nan


def mean_interval(rates: Sequence[WinRate]) -> tuple[float, float]:
    """95 % interval of :func:`mean_omega`, the rates being independent."""
    if not rates:
        return (math.nan, math.nan)
    spread = math.sqrt(sum(rate.spread**2 for rate in rates)) / len(rates)
    return _within(mean_omega(rates), spread)


def _within(centre: float, spread: float) -> tuple[float, float]:
    return (max(-1.0, centre - spread), min(1.0, centre + spread))
