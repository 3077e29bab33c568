"""The report in the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aligner.judging import DIMENSIONS
from aligner.reports import Cell, EvaluationReport, Shares


def show_report(console: Console, report: EvaluationReport, *, uri: str, seconds: float) -> None:
    """One line per upstream and their average, then where the report is."""
    table = Table(title="omega in percent [95 % interval] of attainable")
    table.add_column("upstream")
    for dimension in DIMENSIONS:
        table.add_column(dimension, justify="right")
    for title in ("n", "copied", "perfect kept", "details kept", "unusable"):
        table.add_column(title, justify="right")
    for name, one in report.upstreams.items():
        cells = [_cell(one.dimensions[dimension]) for dimension in DIMENSIONS]
        table.add_row(escape(name), *cells, *_shares(one))
    table.add_section()
    means = [_cell(report.overall.dimensions[dimension]) for dimension in DIMENSIONS]
    table.add_row("[bold]average[/]", *means, *_shares(report.overall))
    console.print(table)
    rate = report.overall.n / max(seconds, 1e-9)
    console.print(
        f"{uri}: {report.overall.n:,} corrections judged in {seconds:.0f} s ({rate:,.1f}/s); "
        "open report.html there.",
        soft_wrap=True,
    )


def _cell(cell: Cell) -> str:
    style = "red" if cell.omega < 0 else "default"
    interval = rf"\[{cell.low:+.0f}, {cell.high:+.0f}]"
    return f"[{style}]{cell.omega:+.1f}[/] [dim]{interval} of {cell.attainable:.1f}[/]"


def _shares(one: Shares) -> tuple[str, ...]:
    return (
        str(one.n),
        _percent(one.copy_rate),
        f"{_percent(one.identity_kept)} of {one.perfect}",
        _percent(one.details_kept),
        str(sum(one.unusable.values())),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
