"""The paper's metric: omega = (wins - losses) / (wins + losses + ties), equation 5."""

import math
from collections.abc import Iterable
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
        n = self.total + 2
        wins, losses = self.wins + 0.5, self.losses + 0.5
        centre = (wins - losses) / n
        spread = _Z_95 * math.sqrt((wins + losses) - (wins - losses) ** 2 / n) / n
        return (max(-1.0, centre - spread), min(1.0, centre + spread))
