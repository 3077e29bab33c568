"""Which threshold a job keeps answers by, and which one it finds."""

import math
from pathlib import Path
from typing import Any

import pytest

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.errors import ConfigError, ContractMismatch, DataError
from aligner.judging import DIMENSIONS, Judgement
from aligner.keeping import KEEP_TAG, KeepCalibration, calibrate
from aligner.manifest import FileEntry, Manifest
from aligner.prompt import PLAIN
from aligner.records import Question
from aligner.reports import JudgedRow
from aligner.tracking import ModelVersion
from aligner_jobs.config.engine import EngineConfig
from aligner_jobs.config.keeping import CalibrateKeep, StoredKeep
from aligner_jobs.correct import NEVER
from aligner_jobs.keeping import calibrated, keep_from, stored_calibration
from aligner_jobs.subject import Subject

MANIFEST = Manifest(
    kind="export",
    name="e",
    prompt=PLAIN,
    prompt_fingerprint=PLAIN.fingerprint,
    files={"model.safetensors": FileEntry(size_bytes=1, sha256="ab" * 32)},
)
STORED = StoredKeep(kind="stored")
ENGINE = EngineConfig(dtype="float32")


def found(**changes: Any) -> KeepCalibration:
    given = {
        "export_hash": MANIFEST.content_hash,
        "prompt_fingerprint": PLAIN.fingerprint,
        "dtype": ENGINE.dtype,
        "wanted_error": 0.005,
        "confidence": 0.95,
        **changes,
    }
    return calibrate([-0.5, -0.1], [-5.0] * 600, **given)


def subject(tags: dict[str, str] | None = None) -> Subject:
    """A registered version with these tags; without any, an export that is known by its path."""
    return Subject(
        folder=Path("nowhere"),
        uri="s3://bucket/export",
        manifest=MANIFEST,
        template=PLAIN,
        # None of it is read here.
        tokenizer=HfTokenizer.__new__(HfTokenizer),
        context_tokens=64,
        version=None if tags is None else ModelVersion("m", "1", "s3://bucket/export", tags=tags),
    )


def row(*, good: bool, score: float | None) -> JudgedRow:
    scores = dict.fromkeys(DIMENSIONS, 1.0 if good else 0.0)
    verdicts = dict.fromkeys(DIMENSIONS, "tie")
    judgement = Judgement(scores, scores, verdicts, 0, 0)  # type: ignore[arg-type]
    return JudgedRow("iron", Question("Q?"), "A.", "A.", judgement, keep_score=score)


def test_copies_are_read_only_where_keep_is_set() -> None:
    assert keep_from(None, None) is None


def test_while_a_threshold_is_looked_for_nothing_is_kept() -> None:
    keep = CalibrateKeep()
    assert stored_calibration(subject(), keep, engine=ENGINE) is None
    assert keep_from(keep, None) == NEVER == math.inf


def test_the_calibration_on_the_model_version_is_used() -> None:
    calibration = stored_calibration(subject({KEEP_TAG: found().to_tag()}), STORED, engine=ENGINE)
    assert calibration == found()
    assert keep_from(STORED, calibration) == -0.5


@pytest.mark.parametrize("tags", [None, {}])
def test_a_model_without_a_calibration_is_told_how_to_get_one(tags: dict[str, str] | None) -> None:
    with pytest.raises(ConfigError, match=r"carries no calibration; .* keep.kind=calibrate first"):
        stored_calibration(subject(tags), STORED, engine=ENGINE)


def test_a_calibration_of_another_export_is_refused() -> None:
    other = found(export_hash="0" * 64).to_tag()
    with pytest.raises(ContractMismatch, match="is of export 000000000000"):
        stored_calibration(subject({KEEP_TAG: other}), STORED, engine=ENGINE)


def test_a_calibration_that_was_computed_in_another_way_is_refused() -> None:
    tags = {KEEP_TAG: found().to_tag()}
    assert stored_calibration(subject(tags), STORED, engine=ENGINE) == found()
    served = EngineConfig(dtype="bfloat16")
    with pytest.raises(ContractMismatch, match=r"models:/m/1: .* set engine.dtype=float32, or"):
        stored_calibration(subject(tags), STORED, engine=served)


def test_a_report_that_is_not_there_is_named(tmp_path: Path) -> None:
    keep = StoredKeep(kind="stored", calibration=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere: no report there"):
        stored_calibration(subject(), keep, engine=ENGINE)


def test_scores_of_judged_rows_become_a_calibration_of_their_export() -> None:
    rows = [
        row(good=True, score=-0.1),
        row(good=True, score=None),
        *[row(good=False, score=-4.0)] * 10,
        row(good=False, score=None),
    ]
    calibration = calibrated(rows, subject(), CalibrateKeep(wanted_error=0.3), engine=ENGINE)
    assert calibration is not None
    assert (calibration.good, calibration.flawed) == (1, 10)
    assert calibration.threshold == -0.1
    assert (calibration.export_hash, calibration.dtype) == (MANIFEST.content_hash, "float32")
    assert calibrated(rows, subject(), STORED, engine=ENGINE) is None
