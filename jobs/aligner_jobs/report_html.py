"""The report of an evaluation as one HTML page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from markupsafe import Markup

from aligner.judging import DIMENSIONS
from aligner.reports import EvaluationReport, JudgedRow
from aligner.worddiff import Piece, word_diff
from aligner_jobs.report_page import rendered
from aligner_jobs.report_plots import before_after_svg, changes_svg, keep_curve_svg

_LOSS: Final = ((0, "#f4f4f4"), (20, "#fee0b6"), (45, "#fdb863"), (70, "#e08214"), (100, "#b35806"))
_WIN: Final = ((0, "#f4f4f4"), (20, "#d1e5f0"), (45, "#92c5de"), (70, "#4393c3"), (100, "#2166ac"))
"""Percent to colour; between two of them the colour is mixed."""
_INKS: Final = ("#000000", "#ffffff")


@dataclass(frozen=True, slots=True)
class Shade:
    """How a cell of the heat map looks."""

    background: str
    ink: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the page shows it."""

    row: JudgedRow
    pieces: list[Piece]
    verdicts: str
    """In words: ``helpful win, honest tie``."""


def write_html(
    report: EvaluationReport, rows: Sequence[JudgedRow], path: Path, *, examples: int
) -> None:
    """Write the page; ``examples`` rows of each upstream are shown with their changes."""
    path.write_text(render(report, rows, examples=examples), encoding="utf-8")


def render(report: EvaluationReport, rows: Sequence[JudgedRow], *, examples: int) -> str:
    """The page as text."""
    return rendered(
        "report.html.j2",
        report=report,
        overall=report.overall,
        dimensions=DIMENSIONS,
        shade=shade,
        share=_share,
        negative=negative_cells(report),
        before_after=Markup(before_after_svg(report)),
        changes=Markup(changes_svg(report)),
        keep_curve=Markup(keep_curve_svg(report.keep)) if report.keep is not None else None,
        examples={name: list(_examples(rows, name, examples)) for name in report.upstreams},
    )


def shade(omega: float) -> Shade:
    """Blue for winning, orange for losing, stronger for more; ``omega`` is in percent."""
    strength = min(100.0, abs(omega))
    colour = _mixed(_WIN if omega >= 0 else _LOSS, strength)
    return Shade(background=colour, ink=max(_INKS, key=lambda ink: _contrast(colour, ink)))


def negative_cells(report: EvaluationReport) -> list[str]:
    """Upstream and dimension of every cell in which the Aligner does harm on balance."""
    return [
        f"{name} {dimension}"
        for name, one in report.upstreams.items()
        for dimension, cell in one.dimensions.items()
        if cell.omega < 0
    ]


def _share(omega: float, attainable: float) -> float:
    """Omega as percent of the attainable, for the bar in a cell."""
    if attainable:
        return max(0.0, min(100.0, 100 * omega / attainable))
    return 100.0 if omega >= 0 else 0.0


def _examples(rows: Sequence[JudgedRow], upstream: str, count: int) -> Iterator[Example]:
    """Losses and unusable corrections first, then wins of as many sorts as there are.

    The last place goes to a perfect answer: what was done to it matters as much.
    """
    own = [row for row in rows if row.upstream == upstream]
    perfect = [row for row in own if row.was_perfect][:1]
    flawed = sorted((row for row in own if not row.was_perfect), key=_worst_first)
    sorts: dict[str, list[JudgedRow]] = {}
    for row in flawed:
        sorts.setdefault(_verdicts(row), []).append(row)
    in_turn = [
        row
        for place in range(count)
        for group in sorts.values()
        for row in group[place : place + 1]
    ]
    for row in [*in_turn[: max(0, count - len(perfect))], *perfect][:count]:
        yield Example(row, word_diff(row.answer, row.correction), _verdicts(row))


def _worst_first(row: JudgedRow) -> tuple[int, int]:
    verdicts = list(row.judgement.verdicts.values())
    if "loss" in verdicts:
        return 0, 0
    if row.unusable is not None:
        return 1, 0
    return 2, -verdicts.count("win")


def _verdicts(row: JudgedRow) -> str:
    return ", ".join(f"{name} {verdict}" for name, verdict in row.judgement.verdicts.items())


def _mixed(stops: Sequence[tuple[int, str]], at: float) -> str:
    """The colour at percent ``at`` on a scale of ``stops``."""
    for (low, first), (high, second) in pairwise(stops):
        if at <= high:
            weight = (at - low) / (high - low)
            channels = zip(_channels(first), _channels(second), strict=True)
            return "#" + "".join(f"{round(a + weight * (b - a)):02x}" for a, b in channels)
    return stops[-1][1]


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG defines it, from 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    shares = [channel / 255 for channel in _channels(colour)]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
