"""The report in the terminal."""

from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aligner.judging import DIMENSIONS
from aligner.reports import Cell, EvaluationReport, Shares

_WIDE_FROM: Final = 130
"""Columns of the terminal; a narrower one is shown the main numbers only."""


def show_report(
    console: Console, report: EvaluationReport, *, uri: str, seconds: float | None = None
) -> None:
    """One line per upstream and their average, then where the report is.

    Without ``seconds`` it says that the report was there already.
    """
    wide = console.width >= _WIDE_FROM
    interval = " [95 % interval]" if wide else ""
    table = Table(
        title=escape(f"omega{interval}/attainable, in percent"),
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("upstream", no_wrap=True)
    for title in (*DIMENSIONS, "copied", "kept", "details", *(("n", "unusable") if wide else ())):
        table.add_column(title, justify="right", no_wrap=True)
    for name, one in report.upstreams.items():
        cells = [_cell(one.dimensions[dimension], wide=wide) for dimension in DIMENSIONS]
        table.add_row(escape(name), *cells, *_shares(one, wide=wide))
    table.add_section()
    means = [_cell(report.overall.dimensions[name], wide=wide) for name in DIMENSIONS]
    table.add_row("[bold]average[/]", *means, *_shares(report.overall, wide=wide))
    console.print(table)
    console.print("[dim]kept: perfect answers returned unchanged; details: true ones, verbatim[/]")
    if report.keep is not None:
        console.print(escape(f"KEEP {report.keep.sentence}"), soft_wrap=True)
    judged = f"{report.overall.n:,} corrections judged"
    if seconds is None:
        how = f"{judged} before with these settings; nothing to do"
    else:
        how = f"{judged} in {seconds:.0f} s ({report.overall.n / max(seconds, 1e-9):,.1f}/s)"
    console.print(f"{uri}: {how}; open report.html there.", soft_wrap=True)


def _cell(cell: Cell, *, wide: bool) -> str:
    style = "bold red" if cell.omega < 0 else "default"
    interval = rf" \[{cell.low:+.0f}, {cell.high:+.0f}] " if wide else ""
    return f"[{style}]{cell.omega:+.1f}[/][dim]{interval}/{cell.attainable:.1f}[/]"


def _shares(one: Shares, *, wide: bool) -> tuple[str, ...]:
    shares = (one.copy_rate, one.identity_kept, one.details_kept)
    counts = (str(one.n), str(sum(one.unusable.values()))) if wide else ()
    return (*(f"{100 * share:.1f}" for share in shares), *counts)
