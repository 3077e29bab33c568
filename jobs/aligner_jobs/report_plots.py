"""Plots of an evaluation's report."""

from typing import Final

import matplotlib
from matplotlib.figure import Figure

from aligner.judging import DIMENSIONS
from aligner.keeping import KeepCalibration
from aligner.reports import EvaluationReport
from aligner_jobs.plotting import BLUE, INK, ORANGE, STYLE, name_rows, row_bars, row_panels, to_svg

_WIDTH_IN_ERRORS: Final = 4
"""Of the plot of KEEP, in wanted errors: what lies beyond is of no use."""


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


def keep_curve_svg(keep: KeepCalibration) -> str:
    """What KEEP saves against what it lets through, for every threshold; the chosen one marked."""
    wanted = 100 * keep.wanted_error
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.5, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            [0.0, *(100 * point.kept_flawed for point in keep.curve)],
            [0.0, *(100 * point.kept_good for point in keep.curve)],
            color=BLUE,
            drawstyle="steps-post",
        )
        axes.axvline(wanted, color=ORANGE, linestyle="--", linewidth=1.2)
        if keep.threshold is not None:
            error, share = keep.flawed_kept / keep.flawed, keep.good_kept / keep.good
            axes.scatter([100 * error], [100 * share], s=60, color=BLUE, zorder=3, clip_on=False)
        axes.set_xlim(0, _WIDTH_IN_ERRORS * wanted)
        axes.set_ylim(0, 102)
        axes.set_xlabel("flawed answers kept (%)")
        axes.set_ylabel("good answers kept (%)")
        axes.grid(color=INK, alpha=0.15, linewidth=0.7)
        axes.set_axisbelow(True)
        return to_svg(figure)
