"""An Aligner as a teacher: it says "v0 v1 w2" whatever it is to correct."""

import json
from pathlib import Path
from typing import Any

import keep_reports
import pyarrow.parquet as pq
import pytest
from chain_models import Chain, write_models

from aligner import artefacts
from aligner.adapters.memory_tracker import MemoryTracker
from aligner.config import validate
from aligner.errors import ConfigError
from aligner.keeping import KEEP_TAG
from aligner.manifest import Manifest
from aligner_jobs import build_dataset
from aligner_jobs.build_dataset import BuildResult
from aligner_jobs.config.build_dataset import BuildDatasetConfig

SAYS = "v0 v1 w2"
ANSWERS = (SAYS, "v0 x1 w2", "w2", "x1 " * 1100)
"""Kept, corrected behind its first word, corrected from the start, and too long to be corrected."""


def config(folder: Path, **changes: Any) -> BuildDatasetConfig:
    source = folder / "answers.jsonl"
    rows = [
        {"question": f"q{number}", "answer": answer.strip()}
        for number, answer in enumerate(ANSWERS)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = {
        "kind": "aligner",
        "model": "m",
        "keep": {"kind": "stored"},
        "engine": {"dtype": "float32", "max_num_seqs": 8, "batch_size": 8},
    }
    raw = {
        "out": str(folder / "dataset"),
        "sources": {"answers": {"kind": "answers", "path": str(source)}},
        "teachers": {"pupil": teacher},
        "heldout_share": 0.0,
        "warmup_share": 0.0,
        "max_failed_share": 0.5,
        "gates": {"max_copy_rate": 1.0},
        "replies": str(folder / "replies"),
        "workers": 1,
        **changes,
    }
    return validate(BuildDatasetConfig, raw, where="test.yaml")


def registered(folder: Path, *, calibrated: bool) -> tuple[MemoryTracker, Manifest]:
    """A tracker that knows the Aligner, with or without a threshold for KEEP."""
    write_models(folder, Chain(("w2",), tuple(SAYS.split())), layers=1, width=256)
    uri = str(folder / "export")
    export = artefacts.read_manifest(uri, kind="export")
    keep = keep_reports.calibration(export, threshold=-1.0, dtype="float32")
    tracker = MemoryTracker()
    tags = {KEEP_TAG: keep.to_tag()} if calibrated else {}
    tracker.register("m", source=uri, run_id="r", tags=tags)
    return tracker, export


def test_an_aligner_without_a_threshold_cannot_keep_and_is_not_started(tmp_path: Path) -> None:
    tracker, _ = registered(tmp_path, calibrated=False)
    with pytest.raises(ConfigError, match=r"models:/m/1 carries no calibration"):
        build_dataset.run(config(tmp_path), tracker=tracker)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.e2e
def test_an_aligner_corrects_what_it_does_not_keep_and_is_not_asked_twice(tmp_path: Path) -> None:
    tracker, export = registered(tmp_path, calibrated=True)
    first = build_dataset.run(config(tmp_path), tracker=tracker)
    assert_is_right(first, export)
    second = build_dataset.run(config(tmp_path, out=str(tmp_path / "again")), tracker=tracker)
    # What was corrected is kept; the answer without a correction is tried once more.
    ledger = second.manifest.facts["ledger"]["teachers.pupil"]
    assert (ledger["asked"], ledger["completion_tokens"]) == (5, 7)
    assert second.manifest.content_hash == first.manifest.content_hash


def assert_is_right(made: BuildResult, export: Manifest) -> None:
    rows = pq.read_table(Path(made.uri) / "train").to_pylist()
    assert {row["answer"] for row in rows} == set(ANSWERS[:3])
    assert {(row["correction"], row["teacher"]) for row in rows} == {(SAYS, "pupil")}
    corrections = next(step for step in made.manifest.funnel if step.step == "corrections")
    assert corrections.dropped == {"too_long": 1}
    assert [parent.content_hash for parent in made.manifest.parents] == [export.content_hash]
    ledger = made.manifest.facts["ledger"]["teachers.pupil"]
    assert ledger["replies"] == {"kept": 1, "ok": 2, "too_long": 1}
    # Three words and EOS from the start, and three tokens behind the trusted first word.
    assert ledger["completion_tokens"] == 7
