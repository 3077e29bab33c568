import io
import re

from rich.console import Console

from aligner_jobs.train.comparison import Outcome, page, plot_svg, table

SMALL = Outcome(
    "0.5b", 1, parameters=494_005_120, seconds=90.0,
    metrics={"heldout_loss_before": 2.5, "heldout_loss": 1.25, "copy_rate": 0.5},
)  # fmt: skip
LARGE = Outcome(
    "7b", 8, parameters=6_738_415_616,
    metrics={"heldout_loss_before": 2.25, "heldout_loss": 1.0, "identity_rate": 0.75},
)  # fmt: skip
FAILED = Outcome("2b", 4, failure="data/x: there is <no> such folder")


def test_the_table_shows_every_size_and_why_one_failed() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table([SMALL, FAILED, LARGE]))
    text = console.export_text()
    for expected in ("494,005,120", "1.250", "50.0%", "75.0%", "1.5", "there is <no> such folder"):
        assert expected in text


def test_the_page_escapes_what_comes_from_outside() -> None:
    made = page([SMALL, FAILED, LARGE])
    assert "<svg" in made and "2b failed" in made
    assert "&lt;no&gt;" in made and "<no>" not in made
    assert page([FAILED]).count("<svg") == 0


def test_equal_outcomes_give_equal_plots() -> None:
    made = plot_svg([SMALL, LARGE])
    assert made == plot_svg([SMALL, LARGE])
    assert {"0.5b", "7b"} <= set(re.findall(r">([^<>]+)</text>", made))
