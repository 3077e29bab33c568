"""``aligner cost``: its lines, its page and the command."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aligner.config import load
from aligner_jobs import cli, cost_page, cost_sheet, programs
from aligner_jobs.config.cost import CostConfig

SHIPPED = programs.shipped_config("jobs", "cost/gpu.yaml")
MEASURED = programs.shipped_config("jobs", "cost/cpu.yaml")


def measured(prefill: float, decode: float, usd: float = 1.0) -> dict[str, object]:
    return {
        "kind": "measured",
        "prefill_tokens_per_s": prefill,
        "decode_tokens_per_s": decode,
        "usd_per_device_hour": usd,
        "measured_on": "a <fast> machine & its dollar$",
    }


@pytest.fixture
def config() -> CostConfig:
    return CostConfig.model_validate(
        {
            "upstreams": {"large": measured(1000, 100), "larger": measured(100, 10, 8.0)},
            "aligners": {"small": measured(10_000, 1000)},
            "kept_shares": [0.0, 1.0],
            "edit_ratios": [0.1],
        }
    )


def test_each_pair_climbs_the_ladder_and_gets_cheaper(config: CostConfig) -> None:
    lines = cost_sheet.ladder(config)
    assert [line.upstream for line in lines] == ["large"] * 4 + ["larger"] * 4
    assert [line.shortcuts for line in lines[:4]] == list(config.shortcuts.ladder())
    plain, keep, drafts, ahead = (line.corrected.usd for line in lines[:4])
    assert plain > keep > drafts
    # What it reads twice is not free: it buys time, not money.
    assert ahead > drafts and lines[3].waiting_s < lines[2].waiting_s
    assert lines[0].added_share == pytest.approx(lines[0].corrected.usd / lines[0].asked.usd)
    assert lines[0].usd == lines[0].corrected.usd + lines[0].asked.usd


def test_every_case_is_told_without_shortcuts_and_with_all(config: CostConfig) -> None:
    told = [(line.upstream, line.shortcuts, line.kept_share) for line in cost_sheet.cases(config)]
    steps = list(config.shortcuts.ladder())
    assert told == [
        (upstream, name, kept)
        for upstream in config.upstreams
        for name in (steps[0], steps[-1])
        for kept in (0.0, 1.0)
    ]


def test_capacity_grows_with_the_requests(config: CostConfig) -> None:
    few, more, most = cost_sheet.needs(config)[:3]
    assert [need.requests_per_s for need in (few, more, most)] == [10, 100, 1000]
    assert few.asking.replicas < more.asking.replicas < most.asking.replicas
    for need in (few, more, most):
        assert need.correcting.replicas < need.correcting_plain.replicas < need.asking.replicas


def test_the_page_tells_rates_formula_and_capacity(config: CostConfig) -> None:
    page = cost_page.page(config)
    assert "a &lt;fast&gt; machine &amp; its dollar$" in page
    assert "with KEEP" in page and "Leviathan" in page
    assert page.count("<svg") == 1 and "corrected by small" in page
    assert "<script" not in page
    assert page == cost_page.page(config)


def test_the_page_of_what_has_no_shortcuts_is_whole_too(config: CostConfig) -> None:
    none = {"keep": False, "copy_speculation": False, "prefill_ahead": False}
    plain = config.model_copy(update={"shortcuts": config.shortcuts.model_copy(update=none)})
    assert {line.shortcuts for line in cost_sheet.cases(plain)} == {"plain"}
    assert "<svg" in cost_page.page(plain)


def test_the_shipped_sheets_say_what_is_an_estimate() -> None:
    config = load(CostConfig, SHIPPED)
    assert "not measured" in cost_page.page(config)
    assert "not measured" not in cost_page.page(load(CostConfig, MEASURED))
    assert config.upstreams["70b"].devices == 4


def test_the_command_leaves_a_page_and_a_file_for_programs(tmp_path: Path) -> None:
    out = tmp_path / "sheet"
    arguments = ["cost", "--config", str(SHIPPED), "--set", f"out={out}"]
    done = CliRunner().invoke(cli.main, [*arguments, "--set", "requests_per_s=[7]"])
    assert done.exit_code == 0, done.output
    assert "1,000 corrected answers" in done.output
    sheet = json.loads((out / "cost.json").read_text())
    assert len(sheet["expected"]) == 16 and len(sheet["capacity"]) == 4
    assert {need["requests_per_s"] for need in sheet["capacity"]} == {7}
    assert (out / "cost.html").read_text().startswith("<!doctype html>")


def test_a_share_above_one_is_refused_in_one_sentence(tmp_path: Path) -> None:
    arguments = ["cost", "--config", str(SHIPPED), "--set", f"out={tmp_path}"]
    done = CliRunner().invoke(cli.main, [*arguments, "--set", "kept_share=1.5"])
    assert done.exit_code == 2
    assert "kept_share" in done.output and not list(tmp_path.iterdir())
