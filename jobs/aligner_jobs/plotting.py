"""Drawing for reports: SVG text without files or global state, in colours that follow the page.

Blue and orange are told apart by readers with any of the common colour deficiencies; wherever a
colour carries a meaning, a shape or a number carries it, too.
"""

import io
import re
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE: Final = "#3b8bc4"
ORANGE: Final = "#e08214"

INK: Final = "#010203"
"""Stands for the page's own text colour, which an SVG inside a page can take over."""
_MEASURED_IN: Final = "DejaVu Sans"
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "aligner",
    # Comes with matplotlib, which needs some font to measure with; the page shows its own.
    "font.family": _MEASURED_IN,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_INCHES_PER_ROW: Final = 0.3


def row_panels(count: int, *, rows: int) -> tuple[Figure, list[Axes]]:
    """``count`` panels side by side, with ``rows`` named rows that they share."""
    figure = Figure(figsize=(9.5, 1.1 + _INCHES_PER_ROW * rows), layout="constrained")
    made = figure.subplots(1, count, sharey=True, squeeze=False)
    return figure, list(made[0])


def row_bars(axes: Axes, values: Sequence[float], *, color: str) -> None:
    """A bar for each row, with its value behind it; ``values`` are in percent."""
    bars = axes.barh(range(len(values)), values, color=color, height=0.62)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes.set_xlim(0, max(10.0, *values) * 1.18)


def name_rows(panels: Sequence[Axes], names: Sequence[str]) -> None:
    """``names`` from top to bottom, a faint line for each."""
    panels[0].set_yticks(range(len(names)), [plain(name) for name in names])
    panels[0].invert_yaxis()
    for axes in panels:
        axes.set_axisbelow(True)
        axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.7)
        axes.tick_params(length=0)


def plain(name: str) -> str:
    """``name`` as text: a dollar sign would begin a formula."""
    return name.replace("$", r"\$")


def to_svg(figure: Figure) -> str:
    """``figure`` as an element for a page; the same figure gives the same bytes."""
    stream = io.StringIO()
    nobody = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(stream, format="svg", transparent=True, metadata=nobody)
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # The page scales the drawing by its width alone.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", svg, count=1)
    svg = svg.replace(f"'{_MEASURED_IN}'", "system-ui, sans-serif")
    return svg.replace(INK, "currentColor")
