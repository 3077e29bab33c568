"""Plots of a dataset's report."""

from collections.abc import Mapping, Sequence
from typing import Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner_jobs.dataset_profile import LENGTH_EDGES, Counts
from aligner_jobs.plotting import (
    BLUE,
    INK,
    ORANGE,
    STYLE,
    name_rows,
    plain,
    row_bars,
    row_panels,
    to_svg,
)

_PER_LINE: Final = 4
_EDIT_EDGES: Final = np.linspace(0, 1, 21)


def lengths_svg(lengths: Mapping[str, Counts]) -> str:
    """How long the texts are, one panel for each."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 2.5), layout="constrained")
        panels = list(figure.subplots(1, len(lengths), sharex=True, squeeze=False)[0])
        for axes, (name, counts) in zip(panels, lengths.items(), strict=True):
            share = 100 * counts / max(1, counts.sum())
            axes.bar(LENGTH_EDGES[:-1], share, np.diff(LENGTH_EDGES), align="edge", color=BLUE)
            axes.set_xscale("log")
            axes.set_xlabel("characters")
            _titled(axes, name)
        _zoom(panels, lengths)
        panels[0].set_ylabel("share of the rows (%)")
        return to_svg(figure)


def copies_svg(rows: Mapping[str, int], copied: Mapping[str, int]) -> str:
    """Share of each upstream's answers that are their own correction, and its share of the rows."""
    names = list(rows)
    total = max(1, sum(rows.values()))
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = row_panels(2, rows=len(names))
        row_bars(left, [100 * rows[name] / total for name in names], color=BLUE)
        left.set_title("share of the dataset", fontsize=11, loc="left")
        left.set_xlabel("share of the rows (%)")
        row_bars(
            right, [100 * copied.get(name, 0) / max(1, rows[name]) for name in names], color=ORANGE
        )
        right.set_title("copy rate", fontsize=11, loc="left")
        right.set_xlabel("corrections that equal their answer (%)")
        name_rows([left, right], [shortened(name) for name in names])
        return to_svg(figure)


def edits_svg(ratios: Mapping[str, Sequence[float]]) -> str:
    """How much corrections that are no copies change, one panel for each upstream."""
    lines = -(-len(ratios) // _PER_LINE)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 0.5 + 1.7 * lines), layout="constrained")
        grid = figure.subplots(lines, _PER_LINE, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, (name, values) in zip(panels, ratios.items(), strict=False):
            counts = np.histogram(values, _EDIT_EDGES)[0]
            share = 100 * counts / max(1, counts.sum())
            axes.bar(_EDIT_EDGES[:-1], share, np.diff(_EDIT_EDGES), align="edge", color=BLUE)
            _titled(axes, shortened(name))
            axes.set_xlim(0, 1)
        for axes in panels[len(ratios) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(ratios) - _PER_LINE) : len(ratios)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("edit ratio: 1 - similarity", fontsize=10)
        figure.supylabel("share of the sample (%)", fontsize=10)
        return to_svg(figure)


def shortened(name: str) -> str:
    """``name`` as it fits beside a plot."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return printable if len(printable) <= 32 else printable[:31] + "\N{HORIZONTAL ELLIPSIS}"


def _titled(axes: Axes, name: str) -> None:
    axes.set_title(plain(name), fontsize=11, loc="left")
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.7)
    axes.tick_params(length=0)


def _zoom(panels: Sequence[Axes], lengths: Mapping[str, Counts]) -> None:
    """Leave out lengths that no text has."""
    used = np.flatnonzero(sum(lengths.values(), start=np.zeros(len(LENGTH_EDGES) - 1)))
    if len(used):
        panels[0].set_xlim(LENGTH_EDGES[used[0]], LENGTH_EDGES[used[-1] + 1])
