"""Runs of several sizes beside one another: a table, a plot and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from aligner_jobs.plotting import BLUE, INK, ORANGE, STYLE, plain, to_svg
from aligner_jobs.report_page import rendered

PAGE_FILE: Final = "comparison.html"

_COLUMNS: Final[Mapping[str, str]] = {
    "heldout_loss_before": "{:.3f}",
    "heldout_loss": "{:.3f}",
    "copy_rate": "{:.1%}",
    "identity_rate": "{:.1%}",
    "tokens_per_s": "{:,.0f}",
}
"""Metrics that are compared, and how they are written."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one size."""

    name: str
    workers: int
    parameters: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    """Of the start that ended it; unset where an earlier one had."""
    failure: str | None = None
    """The sentence it ended with."""

    @property
    def verdict(self) -> str:
        """In a word."""
        return "trained" if self.failure is None else "failed"

    def cells(self) -> dict[str, str]:
        """Column to text, empty where there is nothing to say."""
        return {
            "size": self.name,
            "parameters": f"{self.parameters:,}" if self.parameters else "",
            "workers": str(self.workers),
            **{
                name.replace("_", " "): form.format(self.metrics[name])
                if name in self.metrics
                else ""
                for name, form in _COLUMNS.items()
            },
            "minutes": f"{self.seconds / 60:.1f}" if self.seconds is not None else "",
            "outcome": self.failure or self.verdict,
        }


def table(outcomes: Sequence[Outcome]) -> Table:
    """For the terminal."""
    made = Table(title="sizes compared")
    for column in outcomes[0].cells():
        made.add_column(column, justify="left" if column in ("size", "outcome") else "right")
    for outcome in outcomes:
        made.add_row(*outcome.cells().values())
    return made


def page(outcomes: Sequence[Outcome]) -> str:
    """One HTML file."""
    trained = [one for one in outcomes if one.failure is None and one.parameters]
    return rendered(
        "sizes.html.j2",
        rows=[one.cells() | {"outcome": one.verdict} for one in outcomes],
        failures={one.name: one.failure for one in outcomes if one.failure is not None},
        plot=Markup(plot_svg(trained)) if trained else None,
    )


def plot_svg(outcomes: Sequence[Outcome]) -> str:
    """Held-out loss before and after, and what is left alone, over the parameters."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        losses, rates = figure.subplots(1, 2)
        _draw(losses, outcomes, "heldout_loss_before", "before", ORANGE, "s", scale=1)
        _draw(losses, outcomes, "heldout_loss", "after", BLUE, "o", scale=1)
        losses.set_title("held-out loss (nats per token)", fontsize=11, loc="left")
        _draw(rates, outcomes, "copy_rate", "answers copied", ORANGE, "s", scale=100)
        _draw(rates, outcomes, "identity_rate", "good answers left alone", BLUE, "o", scale=100)
        rates.set_title("left as they were (%)", fontsize=11, loc="left")
        rates.set_ylim(-3, 103)
        for axes in (losses, rates):
            axes.set_xscale("log")
            sizes = [one.parameters or 0 for one in outcomes]
            axes.set_xticks(sizes, [plain(one.name) for one in outcomes])
            axes.minorticks_off()
            axes.set_xlabel("size, by parameters")
            axes.margins(x=0.15)
            axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.7)
            if axes.get_lines():
                axes.legend(frameon=False, fontsize=9)
        return to_svg(figure)


def _draw(
    axes: Axes,
    outcomes: Sequence[Outcome],
    metric: str,
    label: str,
    color: str,
    marker: str,
    *,
    scale: float,
) -> None:
    points = sorted(
        (one.parameters or 0, scale * one.metrics[metric])
        for one in outcomes
        if metric in one.metrics
    )
    if points:
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=label)
