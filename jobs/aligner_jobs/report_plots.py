"""Plots of an evaluation's report."""

import matplotlib

from aligner.judging import DIMENSIONS
from aligner.reports import EvaluationReport
from aligner_jobs.plotting import BLUE, INK, ORANGE, STYLE, name_rows, row_bars, row_panels, to_svg


def before_after_svg(report: EvaluationReport) -> str:
    """Mean score of each upstream before and after correction, one panel per dimension."""
    names = list(report.upstreams)
    with matplotlib.rc_context(STYLE):
        figure, panels = row_panels(len(DIMENSIONS), rows=len(names))
        for axes, dimension in zip(panels, DIMENSIONS, strict=True):
            cells = [report.upstreams[name].dimensions[dimension] for name in names]
            before, after = [cell.before for cell in cells], [cell.after for cell in cells]
            rows = range(len(names))
            axes.hlines(rows, before, after, color=INK, alpha=0.35, linewidth=2, zorder=1)
            axes.scatter(
                before, rows, s=46, facecolors="none", edgecolors=ORANGE, linewidths=1.8, zorder=2
            )
            axes.scatter(after, rows, s=46, color=BLUE, zorder=3)
            axes.set_title(dimension, fontsize=11, loc="left")
            axes.set_xlabel("mean score (0 to 1)")
            axes.set_xlim(-0.03, 1.05)
        name_rows(panels, names)
        return to_svg(figure)


def changes_svg(report: EvaluationReport) -> str:
    """How much is copied, and how many perfect answers are changed, in percent."""
    names = list(report.upstreams)
    shares = [report.upstreams[name] for name in names]
    with matplotlib.rc_context(STYLE):
        figure, (copied, changed) = row_panels(2, rows=len(names))
        row_bars(copied, [100 * one.copy_rate for one in shares], color=BLUE)
        copied.set_title("returned unchanged", fontsize=11, loc="left")
        copied.set_xlabel("share of all answers (%)")
        row_bars(changed, [100 * one.over_correction for one in shares], color=ORANGE)
        changed.set_title("over-corrected", fontsize=11, loc="left")
        changed.set_xlabel("share of the perfect answers that were changed (%)")
        name_rows([copied, changed], names)
        return to_svg(figure)
