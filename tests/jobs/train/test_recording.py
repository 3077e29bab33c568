from collections.abc import Callable
from pathlib import Path

import pytest

from aligner import artefacts
from aligner.adapters.memory_tracker import MemoryRun, MemoryTracker
from aligner.errors import TrackingAway, TrainingError
from aligner.manifest import FileEntry, Manifest
from aligner.prompt import PLAIN
from aligner.tracking import DESCRIPTION_TAG, TrackingConfig
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train import driver, recording
from aligner_jobs.train.material import Material
from aligner_jobs.train.progress import News
from aligner_jobs.train.run_state import read_state

EXPORT = Manifest(
    kind="export",
    name="train-0123456789ab",
    prompt=PLAIN,
    prompt_fingerprint=PLAIN.fingerprint,
    counts={"train": 3},
    files={"model.safetensors": FileEntry(size_bytes=1, sha256="ab")},
)
METRICS = {"heldout_loss_before": 6.0, "heldout_loss": 0.5, "copy_rate": 0.25, "warmup/loss": 1.0}
SAMPLE: dict[str, str | float] = {
    "question": "Is it?",
    "answer": "It is.",
    "correction": "It is not.",
    "teacher's correction": "No.",
    "unchanged": "no",
    "perfect answer": "no",
    "similarity to the teacher": 0.2,
}


def config_for(tmp_path: Path, dataset: str = "dataset") -> TrainConfig:
    return TrainConfig(
        dataset=dataset,
        out=str(tmp_path / "out"),
        model=ScratchModel(kind="scratch", vocab_size=320),
        register_as="small",
        tracking=TrackingConfig(uri="postgresql://ann:secret@db/mlflow", patience_s=0.0),
    )


def test_news_become_numbers_at_their_steps_and_tables_of_their_own() -> None:
    run = MemoryRun("run-1", "train")
    recorder = recording.Recorder(run)
    recorder.hear(News("correction", 20, {"loss": 0.5}))
    recorder.hear(News("correction", 20, {"copy_rate": 0.25}, samples=[SAMPLE]))
    recorder.hear(News("correction", 30, {"loss": 0.4}))
    assert run.metrics == {
        "correction/loss": {20: 0.5, 30: 0.4},
        "correction/copy_rate": {20: 0.25},
    }
    assert run.tables == {"samples/correction-0000020": [SAMPLE]}
    assert recorder.samples == [SAMPLE]


def test_a_run_ends_with_a_version_its_last_numbers_and_a_page(
    tmp_path: Path, small_dataset: str, prepared: Callable[[TrainConfig], Material]
) -> None:
    config = config_for(tmp_path, small_dataset)
    dataset = artefacts.read_manifest(small_dataset, kind="dataset")
    tracker, name = MemoryTracker(), "train-0123456789ab"
    with recording.recorded(config, tracker, name, state=None, tell=print) as run:
        recording.describe(run, config, prepared(config), dataset)
        assert "has not ended" in tracker.runs[run.run_id].tags[DESCRIPTION_TAG]
        versions = [
            recording.conclude(
                run,
                tracker,
                config,
                dataset,
                manifest=EXPORT,
                metrics=METRICS,
                samples=[SAMPLE],
                tell=print,
            )
            for _ in range(2)
        ]
    assert [version and version.uri for version in versions] == 2 * ["models:/small/1"]
    kept = tracker.runs[run.run_id]
    assert kept.metrics["heldout_loss"] == {0: 0.5}
    assert "warmup/loss" not in kept.metrics
    assert "training.html" in kept.artifacts
    description = kept.tags[DESCRIPTION_TAG]
    assert description.startswith(
        "held-out loss **6.000 → 0.500**, copy rate 25.0%, registered as `models:/small/1`."
    )
    assert "| `identity_rate` | of the answers without a flaw were left alone (sampled) |" in (
        description
    )
    assert "secret" not in str(kept.params)


def test_a_state_finds_its_run_again_and_holds_no_password(tmp_path: Path) -> None:
    config, tracker = config_for(tmp_path), MemoryTracker()
    with recording.recorded(config, tracker, "train-ab", state=None, tell=print) as run:
        pass
    state = recording.previous_state(config, "train-ab")
    assert state is not None
    assert (state.run_id, state.tracking_uri) == (run.run_id, "postgresql://db/mlflow")
    with recording.recorded(config, tracker, "train-ab", state=state, tell=print) as again:
        assert again.run_id == run.run_id
    assert recording.previous_state(config, "train-cd") is None
    elsewhere = config.model_copy(update={"tracking": TrackingConfig(uri="sqlite:///x.db")})
    assert recording.previous_state(elsewhere, "train-ab") is None
    done = recording.ended(state, EXPORT, None)
    assert (done.export_hash, done.model_version) == (EXPORT.content_hash, None)
    assert read_state(config.out) == state


def test_why_a_run_failed_stands_with_it(tmp_path: Path) -> None:
    config, tracker = config_for(tmp_path), MemoryTracker()
    with (
        pytest.raises(TrainingError),
        recording.recorded(config, tracker, "train-ab", state=None, tell=print),
    ):
        raise TrainingError("the loss has run away; start again.")
    (run,) = tracker.runs.values()
    assert run.tags["failure"] == "the loss has run away; start again."


def test_what_cannot_be_sent_is_kept_on_this_machine(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    assert recording.outbox_of(config, "train-ab") == tmp_path / "out" / "unsent"
    away = config.model_copy(update={"out": "s3://bucket/out"})
    first, other = (recording.outbox_of(away, name) for name in ("train-ab", "train-cd"))
    assert first.is_absolute()
    assert first != other


def test_a_server_that_does_not_answer_at_the_start_ends_the_wait_with_its_sentence(
    tmp_path: Path,
) -> None:
    def make() -> MemoryTracker:
        raise TrackingAway("nobody answers; start the server.")

    with pytest.raises(TrackingAway, match="nobody answers"):
        recording.connected(config_for(tmp_path), make, tell=print)


def test_an_export_that_stands_is_recorded_without_training_again(
    tmp_path: Path, small_dataset: str
) -> None:
    """Its run ended, but the tracking server was away then."""
    config, tracker = config_for(tmp_path, small_dataset), MemoryTracker()
    dataset = artefacts.read_manifest(small_dataset, kind="dataset")
    name = config.run_name(dataset.content_hash)
    with artefacts.staging(config.export_uri) as staging:
        (staging.path / "model.safetensors").write_bytes(b"")
        manifest = staging.publish(
            kind="export",
            name=name,
            prompt=PLAIN,
            prompt_fingerprint=PLAIN.fingerprint,
            counts={},
            facts={"metrics": METRICS},
        )
    with recording.recorded(config, tracker, name, state=None, tell=print) as run:
        run.log_metrics({"correction/loss": 1.0}, step=7)
    result = driver.run(config, tracker=tracker)
    assert (result.run_id, result.manifest.content_hash) == (run.run_id, manifest.content_hash)
    assert result.version is not None
    kept = tracker.runs[run.run_id]
    assert kept.metrics["heldout_loss"] == {0: 0.5}
    assert kept.artifacts == ["training.html"]
    assert driver.run(config, tracker=tracker).reused
