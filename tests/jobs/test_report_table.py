import io

import pytest
from rich.console import Console

from aligner.judging import DIMENSIONS
from aligner.keeping import KeepCalibration, calibrate
from aligner.reports import (
    Cell,
    CountedCell,
    EvaluationReport,
    ModelUnderTest,
    Overall,
    UpstreamReport,
)
from aligner_jobs.report_table import show_report

SHARES = {
    "n": 150,
    "copy_rate": 1.0,
    "similarity": 1.0,
    "perfect": 10,
    "identity_kept": 1.0,
    "spoiled": 0.0,
    "details": 10,
    "details_kept": 1.0,
}
CELL = {"omega": -88.8, "attainable": 100.0, "low": -95.5, "high": -81.1, "before": 1, "after": 0.5}


def shown(
    *,
    columns: int,
    seconds: float | None = 60.0,
    name: str = "sterling",
    keep: KeepCalibration | None = None,
) -> list[str]:
    counted = CountedCell(**CELL, wins=0, losses=1, ties=0)
    report = EvaluationReport(
        model=ModelUnderTest(
            export_uri="e", export_hash="h", prompt_name="plain", prompt_fingerprint="f"
        ),
        judge="a judge",
        questions="questions",
        simulated=True,
        upstreams={name: UpstreamReport(**SHARES, dimensions=dict.fromkeys(DIMENSIONS, counted))},
        overall=Overall(**SHARES, dimensions=dict.fromkeys(DIMENSIONS, Cell(**CELL))),
        keep=keep,
    )
    stream = io.StringIO()
    show_report(Console(file=stream, width=columns), report, uri="out", seconds=seconds)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("columns", [80, 130])
def test_nothing_is_cut_off_or_wrapped_in_a_usual_terminal(columns: int) -> None:
    lines = shown(columns=columns)
    assert not [line for line in lines if "…" in line]
    (row,) = [line for line in lines if "sterling" in line]
    assert row.count("/100.0") == 3
    assert [line for line in lines if line.strip().startswith("average")]


def test_a_wide_terminal_shows_intervals_and_counts() -> None:
    assert "[-96, -81]" in "\n".join(shown(columns=130))
    assert "[-96, -81]" not in "\n".join(shown(columns=80))


def test_it_says_how_long_it_took_or_that_it_was_there() -> None:
    assert (
        shown(columns=80)[-1]
        == "out: 150 corrections judged in 60 s (2.5/s); open report.html there."
    )
    assert "nothing to do" in shown(columns=80, seconds=None)[-1]


def test_names_of_upstreams_are_no_markup() -> None:
    assert "[red]x[/]" in "\n".join(shown(columns=130, name="[red]x[/]"))


def test_what_was_found_about_keep_is_one_line() -> None:
    keep = calibrate(
        [-0.1],
        [-3.0] * 10,
        export_hash="h",
        prompt_fingerprint="f",
        dtype="bfloat16",
        wanted_error=0.005,
        confidence=0.95,
    )
    (line,) = [line for line in shown(columns=80, keep=keep) if line.startswith("KEEP")]
    assert "no threshold: 10 flawed answers cannot show" in line
