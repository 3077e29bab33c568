import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from aligner.adapters.mlflow_tracker import MlflowTracker
from aligner.errors import ConfigError, DataError, TrackingError
from aligner.manifest import FileEntry, Manifest
from aligner.prompt import PLAIN
from aligner.tracking import Run, Tracker, TrackingConfig
from aligner.tracking_address import redacted


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """One database for all: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("tracking")
    return TrackingConfig(
        uri=f"sqlite:///{folder / 'mlflow.db'}", artifacts=str(folder / "artifacts")
    )


@pytest.fixture(scope="module")
def tracker(config: TrackingConfig) -> MlflowTracker:
    return MlflowTracker(config)


@pytest.fixture(scope="module")
def client(config: TrackingConfig, tracker: MlflowTracker) -> MlflowClient:
    return MlflowClient(tracking_uri=config.uri, registry_uri=config.uri)


def registered(tracker: MlflowTracker, name: str, source: str = "export") -> str:
    with tracker.run("train") as run:
        return tracker.register(name, source=source, run_id=run.run_id, tags={}).version


def manifest() -> Manifest:
    return Manifest(
        kind="dataset",
        name="simworld",
        prompt=PLAIN,
        prompt_fingerprint=PLAIN.fingerprint,
        counts={"train": 3},
        files={"train/0.parquet": FileEntry(size_bytes=1, sha256="ab")},
    )


def test_it_fits_the_seam(tracker: MlflowTracker) -> None:
    seam: Tracker = tracker
    with seam.run("fits") as run:
        opened: Run = run
        assert opened.run_id


def test_importing_the_adapter_does_not_import_mlflow() -> None:
    code = "import sys, aligner.adapters.mlflow_tracker; print('mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    assert done.stdout.strip() == "False", done.stderr


def test_nested_settings_become_dotted_params(tracker: MlflowTracker, client: MlflowClient) -> None:
    many = {f"k{number}": number for number in range(150)}
    with tracker.run("params") as run:
        run.log_params({"optimizer": {"lr": 0.003, "betas": [0.9]}, "odd=key?": "x" * 7000, **many})
        run.log_params({"optimizer": {"lr": 1.0}})
    params = client.get_run(run.run_id).data.params
    assert params["optimizer.lr"] == "0.003"
    assert params["optimizer.betas"] == "[0.9]"
    assert len(params["odd_key_"]) == 6000
    assert params["k149"] == "149"


def test_metrics_are_kept_by_step(tracker: MlflowTracker, client: MlflowClient) -> None:
    with tracker.run("metrics") as run:
        for step in range(3):
            run.log_metrics({"loss": 1.0 / (step + 1), "tokens_per_s": 10.0}, step=step)
    history = client.get_metric_history(run.run_id, "loss")
    assert [(metric.step, round(metric.value, 2)) for metric in history] == [
        (0, 1.0),
        (1, 0.5),
        (2, 0.33),
    ]


def test_more_metrics_than_one_request_holds_are_all_kept(
    tracker: MlflowTracker, client: MlflowClient
) -> None:
    with tracker.run("many") as run:
        run.log_metrics({f"m{number}": float(number) for number in range(1200)})
    assert len(client.get_run(run.run_id).data.metrics) == 1200


def test_files_and_folders_land_below_the_configured_root(
    tracker: MlflowTracker, config: TrackingConfig, tmp_path: Path
) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.svg").write_text("<svg/>")
    (tmp_path / "report.json").write_text("{}")
    with tracker.run("files") as run:
        run.log_artifact(tmp_path / "plots", folder="plots")
        run.log_artifact(tmp_path / "report.json")
    assert config.artifacts is not None
    root = Path(config.artifacts) / run.run_id / "artifacts"
    assert (root / "plots" / "a.svg").is_file()
    assert (root / "report.json").is_file()


def test_a_dataset_is_named_with_its_whole_hash(
    tracker: MlflowTracker, client: MlflowClient
) -> None:
    with tracker.run("dataset") as run:
        run.log_dataset(manifest(), "s3://bucket/data", context="training")
    (entry,) = client.get_run(run.run_id).inputs.dataset_inputs
    tags = {tag.key: tag.value for tag in entry.tags}
    assert tags == {"mlflow.data.context": "training", "content_hash": manifest().content_hash}
    assert entry.dataset.digest == manifest().content_hash[:36]
    assert "s3://bucket/data" in entry.dataset.source


def test_a_run_ends_as_its_block_ends(tracker: MlflowTracker, client: MlflowClient) -> None:
    with tracker.run("good") as good:
        good.set_tags({"kind": "test"})
    with pytest.raises(ValueError), tracker.run("bad", parent_run_id=good.run_id) as bad:
        raise ValueError
    with pytest.raises(KeyboardInterrupt), tracker.run("stopped") as stopped:
        raise KeyboardInterrupt
    states = [client.get_run(run.run_id).info.status for run in (good, bad, stopped)]
    assert states == ["FINISHED", "FAILED", "KILLED"]
    assert client.get_run(bad.run_id).data.tags["mlflow.parentRunId"] == good.run_id
    assert client.get_run(good.run_id).data.tags["kind"] == "test"


def test_a_run_can_be_reopened(tracker: MlflowTracker, client: MlflowClient) -> None:
    with pytest.raises(ValueError), tracker.run("again") as run:
        raise ValueError
    with tracker.run("again", run_id=run.run_id) as again:
        assert client.get_run(run.run_id).info.status == "RUNNING"
        again.log_metrics({"loss": 1.0})
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_versions_are_found_by_number_alias_and_age(tracker: MlflowTracker, tmp_path: Path) -> None:
    first = registered(tracker, "it's a model", source="export-1")
    second = registered(tracker, "it's a model", source="s3://bucket/export-2")
    tracker.set_alias("it's a model", "champion", first)
    tracker.set_version_tags("it's a model", first, {"omega": "87.5"})
    assert (first, second) == ("1", "2")
    champion = tracker.version("it's a model", "@champion")
    assert champion == tracker.version("it's a model", "1")
    assert champion.source == str(tmp_path / "export-1")
    assert champion.tags == {"omega": "87.5"}
    assert champion.uri == "models:/it's a model/1"
    assert tracker.version("it's a model", "latest").source == "s3://bucket/export-2"


@pytest.mark.parametrize("wanted", ["99", "@champion", "latest"])
def test_an_unknown_model_is_told_in_one_sentence(tracker: MlflowTracker, wanted: str) -> None:
    with pytest.raises(DataError, match="no such model is registered") as caught:
        tracker.version("nobody", wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wanted", ["99", "@champion"])
def test_an_unknown_version_or_alias_tells_what_there_is(
    tracker: MlflowTracker, wanted: str
) -> None:
    version = registered(tracker, f"known-{wanted.strip('@')}")
    tracker.set_alias(f"known-{wanted.strip('@')}", "candidate", version)
    with pytest.raises(DataError, match=r"versions up to 1 \(aliases: candidate\)"):
        tracker.version(f"known-{wanted.strip('@')}", wanted)


def test_a_server_that_does_not_answer_is_one_sentence_at_once() -> None:
    with pytest.raises(TrackingError, match="does not answer"):
        MlflowTracker(TrackingConfig(uri="http://127.0.0.1:9"))


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, and long enough to be looked at" * 100)
    with pytest.raises(TrackingError, match="file is not a database"):
        MlflowTracker(TrackingConfig(uri=f"sqlite:///{tmp_path / 'x.db'}"))


def test_a_locked_database_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    with contextlib.closing(sqlite3.connect(path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="locked"):
            MlflowTracker(TrackingConfig(uri=f"sqlite:///{path}"))


def test_a_uri_of_no_known_kind_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///file\.db"):
        MlflowTracker(TrackingConfig(uri="./mlruns"))


def test_the_experiment_opens_with_runs_and_their_curves(client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("aligner")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_numbers_are_found_again_with_their_steps(
    tracker: MlflowTracker, client: MlflowClient
) -> None:
    with tracker.run("history") as run:
        for _ in range(2):
            run.log_metrics({"loss": 1.0}, step=1, at_ms=1000)
        run.log_metrics({"loss": 0.5, "rate": 2.0}, step=2, at_ms=2000)
        assert run.history() == {"loss": {1: 1.0, 2: 0.5}, "rate": {2: 2.0}}
    assert len(client.get_metric_history(run.run_id, "loss")) == 2


def test_a_table_is_shown_and_replaced(
    tracker: MlflowTracker, client: MlflowClient, tmp_path: Path
) -> None:
    with tracker.run("tables") as run:
        run.log_table("samples/a", [{"answer": "one", "same": 1.0}])
        run.log_table("samples/a", [{"answer": "two", "same": 0.5}])
        run.log_table("samples/b", [])
    file = client.download_artifacts(run.run_id, "samples/a.json", str(tmp_path))
    assert json.loads(Path(file).read_text()) == {
        "columns": ["answer", "same"],
        "data": [["two", 0.5]],
    }
    assert shown_tables(client, run) == ["samples/a.json", "samples/b.json"]


def test_of_very_many_tables_the_last_are_shown(
    tracker: MlflowTracker, client: MlflowClient
) -> None:
    with tracker.run("many tables") as run:
        for number in range(45):
            run.log_table(f"samples/{number}-{'x' * 200}", [])
    shown = shown_tables(client, run)
    assert 20 < len(shown) < 45
    assert shown[-1].startswith("samples/44-")


def shown_tables(client: MlflowClient, run: Run) -> list[str]:
    tags = client.get_run(run.run_id).data.tags
    return [entry["path"] for entry in json.loads(tags["mlflow.loggedArtifacts"])]


def test_an_export_is_registered_once_for_a_run(tracker: MlflowTracker) -> None:
    with tracker.run("train") as run:
        versions = {
            tracker.register("once", source="export", run_id=run.run_id, tags={}).version
            for _ in range(2)
        }
    assert versions == {"1"}
    assert registered(tracker, "once") == "2"


def test_a_deleted_experiment_is_a_config_error(
    config: TrackingConfig, client: MlflowClient
) -> None:
    gone = config.model_copy(update={"experiment": "gone"})
    MlflowTracker(gone)
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(ConfigError, match="was deleted"):
        MlflowTracker(gone)


def test_passwords_are_left_out_of_messages_and_of_configs_that_are_shown() -> None:
    uri = "postgresql://ann:secret@db:5432/x"
    assert redacted(uri) == "postgresql://db:5432/x"
    shown = TrackingConfig(uri=uri).model_dump(mode="json")
    assert shown["uri"] == "postgresql://db:5432/x"


def test_a_new_store_is_made_without_a_word(tmp_path: Path) -> None:
    program = (
        "import sys; from aligner.adapters.mlflow_tracker import MlflowTracker as Tracker; "
        "from aligner.tracking import TrackingConfig; Tracker(TrackingConfig(uri=sys.argv[1]))"
    )
    uri = f"sqlite:///{tmp_path / 'deep' / 'new.db'}"
    made = subprocess.run(
        [sys.executable, "-c", program, uri], capture_output=True, text=True, check=True
    )
    assert (made.stdout, made.stderr) == ("", "")
    assert (tmp_path / "deep" / "new.db").exists()
