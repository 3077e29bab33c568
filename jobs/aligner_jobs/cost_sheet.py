"""The lines of a cost sheet: every pair of models, every step of the shortcuts, every case."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from aligner.costs import Bill, Capacity, Shortcuts, asking, bill, capacity, correcting, waiting_s
from aligner_jobs.config.cost import CostConfig


@dataclass(frozen=True, slots=True)
class Line:
    """What answers of one upstream cost that one Aligner corrects."""

    upstream: str
    aligner: str
    shortcuts: str
    """Which are on."""
    kept_share: float
    edit_ratio: float
    asked: Bill
    corrected: Bill
    waiting_s: float
    """From the upstream's last token to the first corrected one, on an idle replica."""

    @property
    def usd(self) -> float:
        """Of both models."""
        return self.asked.usd + self.corrected.usd

    @property
    def added_share(self) -> float:
        """What correcting adds to the price of answering."""
        return self.corrected.usd / self.asked.usd


@dataclass(frozen=True, slots=True)
class Need:
    """What some requests a second take."""

    upstream: str
    aligner: str
    requests_per_s: float
    asking: Capacity
    correcting: Capacity
    correcting_plain: Capacity
    """Without any shortcut."""


def ladder(config: CostConfig) -> list[Line]:
    """Each pair in the expected case, from no shortcut to all of them."""
    return [
        line_of(config, upstream, aligner, steps, config.kept_share, config.edit_ratio)
        for upstream, aligner in _pairs(config)
        for steps in config.shortcuts.ladder()
    ]


def cases(config: CostConfig) -> list[Line]:
    """Each pair, with no shortcut and with all, for every share kept and edit ratio asked for."""
    steps = list(config.shortcuts.ladder())
    return [
        line_of(config, upstream, aligner, name, kept, edit)
        for upstream, aligner in _pairs(config)
        for name in dict.fromkeys((steps[0], steps[-1]))
        for kept, edit in itertools.product(config.kept_shares, config.edit_ratios)
    ]


def line_of(
    config: CostConfig,
    upstream: str,
    aligner: str,
    name: str,
    kept_share: float,
    edit_ratio: float,
) -> Line:
    """One line; ``name`` is a step of the ladder."""
    shortcuts = config.shortcuts.ladder()[name]
    rates = config.aligners[aligner]
    work = correcting(config.traffic, shortcuts, kept_share=kept_share, edit_ratio=edit_ratio)
    return Line(
        upstream,
        aligner,
        name,
        kept_share,
        edit_ratio,
        bill(asking(config.traffic), config.upstreams[upstream]),
        bill(work, rates),
        waiting_s(config.traffic, shortcuts, rates),
    )


def needs(config: CostConfig) -> list[Need]:
    """The capacity table, in the expected case."""
    return [
        Need(
            upstream,
            aligner,
            per_s,
            capacity(
                asking(config.traffic),
                config.upstreams[upstream],
                requests_per_s=per_s,
                utilisation=config.utilisation,
            ),
            *(
                _correctors(config, aligner, shortcuts, per_s)
                for shortcuts in (config.shortcuts, config.shortcuts.ladder()["plain"])
            ),
        )
        for upstream, aligner in _pairs(config)
        for per_s in config.requests_per_s
    ]


def _correctors(
    config: CostConfig, aligner: str, shortcuts: Shortcuts, requests_per_s: float
) -> Capacity:
    work = correcting(
        config.traffic, shortcuts, kept_share=config.kept_share, edit_ratio=config.edit_ratio
    )
    return capacity(
        work,
        config.aligners[aligner],
        requests_per_s=requests_per_s,
        utilisation=config.utilisation,
    )


def _pairs(config: CostConfig) -> Iterator[tuple[str, str]]:
    return itertools.product(config.upstreams, config.aligners)
