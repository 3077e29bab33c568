"""Plots of a report as SVG text: no files, no global state, colours that follow the page.

Blue and orange are told apart by readers with any of the common colour deficiencies; wherever a
colour carries a meaning, a shape or a number carries it, too.
"""

import io
import re
from collections.abc import Sequence
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner.judging import DIMENSIONS
from aligner.reports import EvaluationReport

BLUE: Final = "#3b8bc4"
ORANGE: Final = "#e08214"

_INK: Final = "#010203"
"""Stands for the page's own text colour, which an SVG inside a page can take over."""
_MEASURED_IN: Final = "DejaVu Sans"
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "aligner",
    # Comes with matplotlib, which needs some font to measure with; the page shows its own.
    "font.family": _MEASURED_IN,
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_INCHES_PER_ROW: Final = 0.3


def before_after_svg(report: EvaluationReport) -> str:
    """Mean score of each upstream before and after correction, one panel per dimension."""
    names = list(report.upstreams)
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(len(DIMENSIONS), rows=len(names))
        for axes, dimension in zip(panels, DIMENSIONS, strict=True):
            cells = [report.upstreams[name].dimensions[dimension] for name in names]
            before, after = [cell.before for cell in cells], [cell.after for cell in cells]
            rows = range(len(names))
            axes.hlines(rows, before, after, color=_INK, alpha=0.35, linewidth=2, zorder=1)
            axes.scatter(
                before, rows, s=46, facecolors="none", edgecolors=ORANGE, linewidths=1.8, zorder=2
            )
            axes.scatter(after, rows, s=46, color=BLUE, zorder=3)
            axes.set_title(dimension, fontsize=11, loc="left")
            axes.set_xlabel("mean score (0 to 1)")
            axes.set_xlim(-0.03, 1.05)
        _name_rows(panels, names)
        return _svg(figure)


def changes_svg(report: EvaluationReport) -> str:
    """How much is copied, and how many perfect answers are changed, in percent."""
    names = list(report.upstreams)
    shares = [report.upstreams[name] for name in names]
    with matplotlib.rc_context(_STYLE):
        figure, (copied, changed) = _panels(2, rows=len(names))
        _bars(copied, [100 * one.copy_rate for one in shares], color=BLUE)
        copied.set_title("returned unchanged", fontsize=11, loc="left")
        copied.set_xlabel("share of all answers (%)")
        _bars(changed, [100 * one.over_correction for one in shares], color=ORANGE)
        changed.set_title("over-corrected", fontsize=11, loc="left")
        changed.set_xlabel("share of the perfect answers that were changed (%)")
        _name_rows([copied, changed], names)
        return _svg(figure)


def _panels(count: int, *, rows: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9.5, 1.1 + _INCHES_PER_ROW * rows), layout="constrained")
    made = figure.subplots(1, count, sharey=True, squeeze=False)
    return figure, list(made[0])


def _bars(axes: Axes, values: Sequence[float], *, color: str) -> None:
    bars = axes.barh(range(len(values)), values, color=color, height=0.62)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes.set_xlim(0, max(10.0, *values) * 1.18)


def _name_rows(panels: Sequence[Axes], names: Sequence[str]) -> None:
    """Upstreams from top to bottom in the report's order, a faint line for each."""
    panels[0].set_yticks(range(len(names)), [_plain(name) for name in names])
    panels[0].invert_yaxis()
    for axes in panels:
        axes.set_axisbelow(True)
        axes.grid(axis="x", color=_INK, alpha=0.15, linewidth=0.7)
        axes.tick_params(length=0)


def _plain(name: str) -> str:
    """``name`` as text: a dollar sign would begin a formula."""
    return name.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    nobody = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(stream, format="svg", transparent=True, metadata=nobody)
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # The page scales the drawing by its width alone.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", svg, count=1)
    svg = svg.replace(f"'{_MEASURED_IN}'", "system-ui, sans-serif")
    return svg.replace(_INK, "currentColor")
