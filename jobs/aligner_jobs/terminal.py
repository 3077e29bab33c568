"""What jobs show: a progress bar on stderr, tables on stdout."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aligner.manifest import PAGE_FILE, Manifest


def quiet_ray_data() -> None:
    """Leave the terminal to the job's own progress bar; call it before Ray is started.

    Ray Data else tells of plans and bars, and Ray's core of each actor that Data may restart.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    # Errors as well: they reach the user as exceptions, once.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def progress_bar(label: str, *, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many ``unit`` are done more; ``total`` may be unknown."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)


def show_funnel(console: Console, manifest: Manifest, *, uri: str, seconds: float) -> None:
    """The way of the rows through the steps, and what the dataset holds in the end."""
    table = Table(title=f"{manifest.name}: where each row went")
    for column in ("step", "rows in", "dropped", "rows out"):
        table.add_column(column, justify="left" if column == "step" else "right")
    table.add_column("reasons")
    for step in manifest.funnel:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in step.dropped.items())
        dropped = f"{sum(step.dropped.values()):,}"
        table.add_row(step.step, f"{step.rows_in:,}", dropped, f"{step.rows_out:,}", reasons)
    console.print(table)
    held = ", ".join(f"{rows:,} {split}" for split, rows in manifest.counts.items())
    rate = manifest.funnel[-1].rows_out / max(seconds, 1e-9)
    how = f"{held} rows in {seconds:.0f} s ({rate:,.0f} rows/s)"
    console.print(f"{uri}: {how}; open {PAGE_FILE} there.", soft_wrap=True)


def show_ledger(console: Console, ledger: Mapping[str, Mapping[str, Any]]) -> None:
    """What was asked of models, where any was."""
    if not ledger:
        return
    table = Table(title="what was asked of models, since their replies are kept")
    for column in ("model", "asked", "kept", "failed", "requests", "retries", "tokens", "USD"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, entry in ledger.items():
        tokens = entry["prompt_tokens"] + entry["completion_tokens"]
        amounts = [
            *(entry[item] for item in ("asked", "kept", "failed", "sent", "retries")),
            tokens,
        ]
        table.add_row(name, *(f"{amount:,}" for amount in amounts), f"{entry['usd']:,.2f}")
    console.print(table)
