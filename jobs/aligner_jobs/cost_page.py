"""The page of ``aligner cost``."""

import itertools
from typing import Any, Final

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner import costs
from aligner_jobs import cost_sheet
from aligner_jobs.config.cost import CostConfig
from aligner_jobs.plotting import BLUE, INK, ORANGE, STYLE, plain, to_svg
from aligner_jobs.report_page import rendered

_POINTS: Final = 21
_MARKS: Final = "osD^vP*X"
"""One for each edit ratio, over and over."""


def page(config: CostConfig) -> str:
    """One HTML file."""
    lines = cost_sheet.ladder(config)
    cases = itertools.groupby(
        cost_sheet.cases(config), key=lambda line: (line.upstream, line.aligner)
    )
    return rendered(
        "cost.html.j2",
        config=config,
        answers=costs.ANSWERS,
        lines=lines,
        cases=[(pair, list(found)) for pair, found in cases],
        needs=cost_sheet.needs(config),
        rates=[*config.upstreams.items(), *config.aligners.items()],
        formula=_formula(),
        plot=Markup(plot_svg(config)),
    )


def plot_svg(config: CostConfig) -> str:
    """Money over the share kept, a panel for each Aligner and a line for each edit ratio."""
    with matplotlib.rc_context(STYLE):
        count = len(config.aligners)
        figure = Figure(figsize=(max(6.0, 4.0 * count), 4.0), layout="constrained")
        panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        for axes, aligner in zip(panels, config.aligners, strict=True):
            _draw(axes, config, aligner)
        panels[0].set_ylabel(f"USD per {costs.ANSWERS:,} answers")
        panels[-1].legend(frameon=False, fontsize=8)
        return to_svg(figure)


def _draw(axes: Axes, config: CostConfig, aligner: str) -> None:
    steps = list(config.shortcuts.ladder())
    # Without speculation all edits cost the same.
    _line(axes, config, aligner, steps[0], config.edit_ratios[0], color=ORANGE, linestyle="--")
    for marker, edit in zip(itertools.cycle(_MARKS), config.edit_ratios, strict=False):
        label = f"{100 * edit:g} % edited"
        drawn = {"color": BLUE, "marker": marker, "markevery": 5, "markersize": 4, "label": label}
        _line(axes, config, aligner, steps[-1], edit, **drawn)
    for name, rates in config.upstreams.items():
        asked = costs.bill(costs.asking(config.traffic), rates).usd
        axes.axhline(asked, color=INK, alpha=0.4, linewidth=1, linestyle=":")
        axes.annotate(plain(f"{name} answers"), (1, asked), fontsize=8, alpha=0.7)
    axes.set_yscale("log")
    axes.set_title(plain(f"corrected by {aligner}"), fontsize=11, loc="left")
    axes.set_xlabel("answers that need no correction (%)")
    axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.7)


def _line(
    axes: Axes, config: CostConfig, aligner: str, name: str, edit_ratio: float, **drawn: Any
) -> None:
    shares = [number / (_POINTS - 1) for number in range(_POINTS)]
    upstream = next(iter(config.upstreams))
    lines = [
        cost_sheet.line_of(config, upstream, aligner, name, share, edit_ratio) for share in shares
    ]
    axes.plot([100 * one for one in shares], [one.corrected.usd for one in lines], **drawn)


def _formula() -> str:
    """As its owner states it: all of its description behind the heading."""
    return (costs.__doc__ or "").partition("\n\n")[2]
