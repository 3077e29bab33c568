"""``aligner cost``: what correcting costs and how many replicas it takes, as a page and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from aligner_jobs import cost_page, cost_sheet
from aligner_jobs.config.cost import CostConfig
from aligner_jobs.cost_sheet import Line


def run(config: CostConfig) -> None:
    """Write ``cost.html`` and ``cost.json`` into ``config.out`` and print the expected case."""
    lines, needs = cost_sheet.ladder(config), cost_sheet.needs(config)
    config.out.mkdir(parents=True, exist_ok=True)
    sheet = {
        "config": config.model_dump(mode="json"),
        "expected": [_told(line) for line in lines],
        "cases": [_told(line) for line in cost_sheet.cases(config)],
        "capacity": [asdict(need) for need in needs],
    }
    (config.out / "cost.json").write_text(json.dumps(sheet, indent=2) + "\n", encoding="utf-8")
    (config.out / "cost.html").write_text(cost_page.page(config), encoding="utf-8")
    console = Console()
    console.print(table(lines))
    console.print(f"{config.out / 'cost.html'} shows every case, the formula and the capacity.")


def table(lines: Sequence[Line]) -> Table:
    """For the terminal."""
    made = Table(title="1,000 corrected answers", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("upstream", "aligner", "with"):
        made.add_column(column)
    for column in ("read", "written", "device-s", "USD", "adds", "waits"):
        # Half a figure is none.
        made.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        corrected = line.corrected
        made.add_row(
            line.upstream,
            line.aligner,
            line.shortcuts,
            f"{corrected.read_tokens:,.0f}",
            f"{corrected.written_tokens:,.0f}",
            f"{corrected.device_s:,.1f}",
            f"{corrected.usd:.4f}",
            f"{line.added_share:.0%}",
            f"{1000 * line.waiting_s:,.0f} ms",
        )
    return made


def _told(line: Line) -> dict[str, object]:
    return {**asdict(line), "usd": line.usd, "added_share": line.added_share}
