from pathlib import Path

import pytest

from aligner import artefacts
from aligner.adapters.memory_tracker import MemoryTracker
from aligner.errors import ConfigError, ContractMismatch, DataError, GateRefused
from aligner.gates import Gate
from aligner.prompt import PLAIN
from aligner.reports import REPORT_FILE, EvaluationReport, JudgedRow, ModelUnderTest, evaluate_rows
from aligner.simworld import profiles, teacher
from aligner.simworld.judge import SimJudge
from aligner.simworld.questions import heldout_questions
from aligner.simworld.world import World
from aligner_jobs import promote
from aligner_jobs.config.promote import PromoteConfig

HASH = "ab" * 32
GATE = Gate(min_rows_per_upstream=30)


def publish_report(
    folder: Path, *, perfect: bool = True, name: str | None = "m", version: str | None = "1"
) -> str:
    """A report on the perfect teacher, or on an Aligner that answers as ``iron`` does."""
    world = World(0)
    judge = SimJudge(world)
    rows = []
    for question in heldout_questions(world, 30):
        answer = profiles.answer(world, "jasper", question)
        correction = (
            teacher.correct(world, question, answer)
            if perfect
            else profiles.answer(world, "iron", question, sample=1)
        )
        judgement = judge.judge(question, answer, correction)
        rows.append(JudgedRow("jasper", question, answer, correction, judgement))
    upstreams, overall = evaluate_rows(rows)
    report = EvaluationReport(
        model=ModelUnderTest(
            export_uri="export",
            export_hash=HASH,
            prompt_name=PLAIN.name,
            prompt_fingerprint=PLAIN.fingerprint,
            name=name,
            version=version,
        ),
        judge="the exact judge",
        questions="held-out questions",
        simulated=True,
        upstreams=upstreams,
        overall=overall,
    )
    uri = str(folder / "report")
    with artefacts.staging(uri) as stage:
        (stage.path / REPORT_FILE).write_text(report.model_dump_json())
        stage.publish(kind="report", name="r", prompt=PLAIN, prompt_fingerprint=PLAIN.fingerprint)
    return uri


@pytest.fixture
def tracker() -> MemoryTracker:
    made = MemoryTracker()
    made.register("m", source="export", run_id="run", tags={"export_hash": HASH})
    return made


def test_a_good_report_moves_the_alias(tmp_path: Path, tracker: MemoryTracker) -> None:
    config = PromoteConfig(report=publish_report(tmp_path), gate=GATE)
    result = promote.run(config, tracker=tracker)
    assert result.alias == "champion"
    assert all(check.passed for check in result.checks)
    champion = tracker.version("m", "@champion")
    assert champion.version == "1"
    assert champion.tags["gate"] == "passed"
    assert champion.tags["gate_failed"] == ""


def test_a_refusal_names_each_failed_threshold_and_moves_nothing(
    tmp_path: Path, tracker: MemoryTracker
) -> None:
    config = PromoteConfig(report=publish_report(tmp_path, perfect=False), gate=GATE)
    with pytest.raises(GateRefused) as caught:
        promote.run(config, tracker=tracker)
    sentence = str(caught.value)
    assert sentence.startswith("models:/m/1: not promoted to champion")
    for name in ("min_omega_of_attainable/helpful", "min_identity_kept", "min_details_kept"):
        assert name in sentence
    assert "at least 0.98 needed" in sentence
    assert "\n" not in sentence
    assert caught.value.exit_code == 1
    assert not tracker.aliases
    assert tracker.version("m", "1").tags["gate"] == "refused"
    assert "min_identity_kept" in tracker.version("m", "1").tags["gate_failed"]


def test_the_alias_can_be_candidate(tmp_path: Path, tracker: MemoryTracker) -> None:
    config = PromoteConfig(report=publish_report(tmp_path), alias="candidate", gate=GATE)
    promote.run(config, tracker=tracker)
    assert list(tracker.aliases) == [("m", "candidate")]


def test_a_report_on_other_weights_promotes_nothing(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    tracker.register("m", source="export", run_id="run", tags={"export_hash": "cd" * 32})
    with pytest.raises(ContractMismatch, match="judged the export abababababab, models:/m/1 is cd"):
        promote.run(PromoteConfig(report=publish_report(tmp_path)), tracker=tracker)
    assert not tracker.aliases


def test_a_version_without_a_hash_promotes_nothing(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    tracker.register("m", source="export", run_id="run", tags={})
    with pytest.raises(ContractMismatch, match="registered without a hash"):
        promote.run(PromoteConfig(report=publish_report(tmp_path)), tracker=tracker)


def test_a_report_on_an_unregistered_export_asks_for_the_version(
    tmp_path: Path, tracker: MemoryTracker
) -> None:
    uri = publish_report(tmp_path, name=None, version=None)
    with pytest.raises(ConfigError, match="name it by model and version"):
        promote.run(PromoteConfig(report=uri, gate=GATE), tracker=tracker)
    promote.run(PromoteConfig(report=uri, gate=GATE, model="m", version="1"), tracker=tracker)
    assert tracker.aliases == {("m", "champion"): "1"}


def test_a_missing_report_is_one_sentence(tmp_path: Path, tracker: MemoryTracker) -> None:
    with pytest.raises(DataError, match="no report there"):
        promote.run(PromoteConfig(report=str(tmp_path / "nowhere")), tracker=tracker)


def test_an_unknown_version_is_one_sentence(tmp_path: Path, tracker: MemoryTracker) -> None:
    config = PromoteConfig(report=publish_report(tmp_path), model="m", version="9")
    with pytest.raises(DataError, match="no version or alias '9'"):
        promote.run(config, tracker=tracker)


def test_a_version_needs_its_model() -> None:
    with pytest.raises(ValueError, match="model and version go together"):
        PromoteConfig(report="r", version="3")
