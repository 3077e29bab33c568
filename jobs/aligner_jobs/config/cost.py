"""Settings of ``aligner cost``."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from aligner.config import StrictModel
from aligner.costs import Rates, Shortcuts, Traffic

Share = Annotated[float, Field(ge=0, le=1)]


class CostConfig(StrictModel):
    """Rates of models, what is asked of them, and which questions the sheet answers."""

    out: Path = Path("cost")
    """Folder for ``cost.html`` and ``cost.json``."""

    upstreams: dict[str, Rates] = Field(min_length=1)
    """Name to rates. ``tests/bench/bench_rates.py`` measures them on the machine at hand."""

    aligners: dict[str, Rates] = Field(min_length=1)
    """Likewise; each goes with every upstream."""

    traffic: Traffic = Traffic()
    """Lengths of what is asked and answered."""

    shortcuts: Shortcuts = Shortcuts()
    """What saves work; the sheet shows each step from none of it to all of it."""

    kept_share: Share = 0.5
    """Expected share of answers that need no correction: ``copy_rate`` in the report of
    ``aligner evaluate``."""

    edit_ratio: Share = 0.1
    """Expected share of a correction's tokens that are no copy, where there is one: in that report
    (1 - ``similarity``) / (1 - ``copy_rate``)."""

    kept_shares: tuple[Share, ...] = (0.0, 0.25, 0.5, 0.75, 0.9)
    """For which others costs are told."""

    edit_ratios: tuple[Share, ...] = (0.05, 0.1, 0.25, 0.6)
    """Likewise."""

    requests_per_s: tuple[Annotated[float, Field(gt=0)], ...] = (10.0, 100.0, 1000.0)
    """For which replicas are counted."""

    utilisation: float = Field(default=0.7, gt=0, le=1)
    """Share of its time that a replica may be busy: the rest keeps queues short."""
