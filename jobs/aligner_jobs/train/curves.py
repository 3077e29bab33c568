"""How a run went, as one HTML page: its curves, its last numbers, its last corrections."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner.worddiff import word_diff
from aligner_jobs.plotting import BLUE, INK, ORANGE, STYLE, to_svg
from aligner_jobs.report_page import rendered
from aligner_jobs.train.material import PHASES

PAGE_FILE: Final = "training.html"
_MOST_POINTS: Final = 400
"""More would make the page slow and show nothing else."""

History = Mapping[str, Mapping[int, float]]
"""Metric to step to value; a phase's metrics begin with its name and a slash."""
Samples = Sequence[Mapping[str, str | float]]

NOTES: Final[Mapping[str, str]] = {
    "copy_rate": "of held-out answers came back byte for byte",
    "identity_rate": "of the answers without a flaw were left alone",
    "over_correction": "of the answers without a flaw were changed",
    "edit_similarity": "likeness of answers and corrections, over words; 100 % is a copy",
    "teacher_similarity": "likeness of the teacher's corrections and the model's",
    "cut_off_rate": "of the corrections did not end in time",
}
"""Shares that are measured on sampled corrections, and what they are shares of."""

_RATES: Final = (
    ("copy_rate", BLUE, "-", "o"),
    ("identity_rate", ORANGE, "-", "s"),
    ("edit_similarity", BLUE, "--", "^"),
    ("teacher_similarity", ORANGE, "--", "v"),
)


def render(
    name: str, history: History, metrics: Mapping[str, float], *, samples: Samples = ()
) -> str:
    """The page; ``metrics`` are the last numbers, ``samples`` the rows of the last table."""
    return rendered(
        "training.html.j2",
        name=name,
        metrics=metrics,
        notes={key: note for key, note in NOTES.items() if key in metrics},
        curves=Markup(curves_svg(history)),
        samples=[_example(row) for row in samples],
    )


def curves_svg(history: History) -> str:
    """Losses above; rates, learning rate and speed below; over the steps of both phases."""
    border = max(history.get("warmup/loss", {0: 0.0}))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 6.2), layout="constrained")
        # A shape's type says nothing about what comes out, so that mypy must not look.
        parts: Any = figure.subfigures(2, 1, height_ratios=[3, 2])
        above, below = parts
        loss = above.subplots()
        _losses(loss, history, border)
        rates, rate, speed = below.subplots(1, 3)
        _rates(rates, history, border)
        for axes, metric, title in (
            (rate, "learning_rate", "learning rate"),
            (speed, "tokens_per_s", "tokens per second"),
        ):
            axes.plot(*_joined(history, metric, border), color=BLUE, linewidth=1.2)
            _framed(axes, title, border)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylim(bottom=0)
        for axes in (rates, rate, speed):
            axes.set_xlim(loss.get_xlim())
        return to_svg(figure)


def _losses(axes: Axes, history: History, border: int) -> None:
    steps, values = _joined(history, "loss", border)
    axes.plot(steps, values, color=BLUE, linewidth=1.2, label="training")
    steps, values = _joined(history, "heldout_loss", border)
    axes.plot(steps, values, color=ORANGE, linewidth=1.6, marker="o", label="held out")
    _framed(axes, "loss", border)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimiser steps")
    axes.legend(frameon=False)


def _rates(axes: Axes, history: History, border: int) -> None:
    for metric, color, line, marker in _RATES:
        steps, values = _joined(history, metric, border)
        if len(steps):
            label = metric.replace("_", " ")
            percent = 100 * values
            axes.plot(steps, percent, line, color=color, marker=marker, markersize=4, label=label)
    _framed(axes, "sampled corrections (%)", border)
    axes.set_ylim(-2, 102)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7)


def _framed(axes: Axes, title: str, border: int) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.7)
    axes.tick_params(length=0)
    if border:
        # Where the identity warm-up ends and correction begins.
        axes.axvline(border, color=INK, alpha=0.4, linewidth=0.8, linestyle=":")


def _joined(history: History, metric: str, border: int) -> tuple[Any, Any]:
    """Steps and values of both phases one after the other, few enough to draw."""
    points: list[tuple[int, float]] = []
    for phase in PHASES:
        offset = border if phase == "correction" else 0
        found = history.get(f"{phase}/{metric}", {})
        points += [(offset + step, value) for step, value in sorted(found.items())]
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS), dtype=int))
    drawn = np.array([points[at] for at in chosen]).reshape(-1, 2)
    return drawn[:, 0], drawn[:, 1]


def _example(row: Mapping[str, str | float]) -> dict[str, Any]:
    answer, correction = str(row["answer"]), str(row["correction"])
    return {
        "question": row["question"],
        "pieces": word_diff(answer, correction),
        "teacher": row["teacher's correction"],
        "similarity": row["similarity to the teacher"],
        "perfect": row["perfect answer"] == "yes",
        "unchanged": row["unchanged"] == "yes",
    }
