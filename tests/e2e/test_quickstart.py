"""The whole road through the real engines, smaller than the quickstart and not judged by its bars.

What the full one reaches is measured by running it; here every stage must hand over to the next.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aligner.adapters.mlflow_tracker import MlflowTracker
from aligner.artefacts import read_manifest
from aligner.judging import DIMENSIONS
from aligner.simworld import profiles
from aligner.tracking import TrackingConfig

SETTINGS = {
    "build_dataset": ["sources.simworld.limit=600"],
    "train": ["correction.epochs=1", "model.layers=2", "heldout.generate_rows=8"],
    "evaluate": ["questions.limit=8"],
    "promote": [
        "gate.min_omega_of_attainable=-10.0",
        "gate.min_cell_omega=-100.0",
        "gate.min_identity_kept=0.0",
        "gate.min_details_kept=0.0",
        "gate.max_passthrough_share=1.0",
        "gate.min_rows_per_upstream=1",
    ],
    "serve": [],
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road") / "out"
    sets = [
        argument
        for stage, overrides in SETTINGS.items()
        for argument in ("--set", f"{stage}={json.dumps(overrides)}")
    ]
    command = [sys.executable, "-m", "aligner_jobs.cli", "quickstart", "--out", str(folder)]
    done = subprocess.run(
        [*command, "--seed", "5", *sets],
        env={**os.environ, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "omega/attainable, in percent" in done.stdout
    assert "/1 is champion" in done.stdout
    return folder


@pytest.fixture(scope="module")
def summary(out: Path) -> dict[str, Any]:
    text = (out / "summary.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_every_upstream_is_judged_in_every_dimension(summary: dict[str, Any]) -> None:
    assert set(summary["upstreams"]) == set(profiles.PROFILES)
    for row in summary["upstreams"].values():
        assert row["n"] == 8
        assert set(row["dimensions"]) == set(DIMENSIONS)
        for cell in row["dimensions"].values():
            assert cell["low"] <= cell["omega"] <= cell["high"]
            assert 0 <= cell["attainable"] <= 100


def test_the_request_was_answered_through_the_gateway(summary: dict[str, Any]) -> None:
    served = summary["served"]
    assert served["answer"] and served["reply"]
    assert served["outcome"] in {"corrected", "unchanged", "passthrough"}
    assert (
        summary["seconds"]["total"]
        >= sum(seconds for name, seconds in summary["seconds"].items() if name != "total") - 1
    )


def test_lineage_leads_from_the_served_version_to_its_dataset(
    out: Path, summary: dict[str, Any]
) -> None:
    tracker = MlflowTracker(TrackingConfig(uri=summary["tracking_uri"], experiment="quickstart"))
    version = tracker.version("simworld-aligner", "@champion")
    assert version.uri == summary["model_version"]
    dataset = read_manifest(str(out / "dataset"), kind="dataset")
    export = read_manifest(version.source, kind="export")
    assert [parent.content_hash for parent in export.parents] == [dataset.content_hash]
    assert version.tags["dataset_hash"] == dataset.content_hash
    assert version.tags["prompt_fingerprint"] == dataset.prompt_fingerprint
    assert summary["dataset_manifest"] == str(out / "dataset" / "manifest.json")


def test_the_funnel_accounts_for_every_row(out: Path) -> None:
    manifest = read_manifest(str(out / "dataset"), kind="dataset")
    assert manifest.funnel[0].rows_in == 600 * 3
    assert manifest.funnel[-1].rows_out == manifest.counts["train"] + manifest.counts["heldout"]


def test_the_report_can_be_read_without_a_network(out: Path) -> None:
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "<script src" not in page and "http://" not in page.replace("http://www.w3.org", "")
