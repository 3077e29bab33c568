"""``aligner train``: a dataset to an exported, registered Aligner."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aligner import artefacts
from aligner.errors import DataError
from aligner.exports import FINGERPRINT_TAG, HASH_TAG
from aligner.manifest import Manifest
from aligner.tracking import ModelVersion, Run, Tracker
from aligner_jobs import runtime
from aligner_jobs.config.model import PretrainedModel
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.terminal import quiet_ray_data
from aligner_jobs.train.encoding import through_ray_data
from aligner_jobs.train.group import run_group
from aligner_jobs.train.material import PHASES, Material, load, survey
from aligner_jobs.train.progress import News
from aligner_jobs.train.run_state import RunState, read_state, write_state


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run made, or found made already."""

    export_uri: str
    manifest: Manifest
    run_id: str
    version: ModelVersion | None
    """Set where the export was registered by this call."""
    metrics: Mapping[str, float]
    resumed_at: tuple[tuple[PhaseName, int], ...] = ()
    """Phase and step of each checkpoint that training went on from."""
    reused: bool = False
    """Whether the run had been finished before."""


def run(config: TrainConfig, *, tracker: Tracker | None = None) -> TrainResult:
    """Train the Aligner that ``config`` describes; the same command resumes an unfinished run.

    Raises:
        DataError: The dataset or the model's folder cannot be used, or something else stands
            at ``out``.
        ContractMismatch: Dataset, model and code disagree on the correction prompt.
        TrainingError: Training cannot go on.
    """
    console = Console()
    config = _absolute(config)
    dataset = artefacts.read_manifest(config.dataset, kind="dataset")
    if (finished := _finished(config, dataset)) is not None:
        console.print(f"{config.export_uri}: trained already with these settings; nothing to do.")
        return finished
    began_s = time.monotonic()
    found = survey(config, dataset)
    tracker = tracker if tracker is not None else _tracker(config)
    quiet_ray_data()
    with runtime.ray_session():
        material = load(config, dataset, found, spread=through_ray_data)
        result = _train(config, dataset, material, tracker, began_s=began_s)
    _summarise(console, config, result.metrics, result.version)
    return result


def _train(
    config: TrainConfig, dataset: Manifest, material: Material, tracker: Tracker, *, began_s: float
) -> TrainResult:
    """Train, register and record, inside a Ray session."""
    state = _previous_state(config, material)
    with tracker.run(material.run_name, run_id=state.run_id if state else None) as record:
        write_state(config.out, _begun(config, material, record))
        if state is None:
            _describe(record, config, material, dataset)
        resumed = []
        with _show(config, material) as show:

            def on_news(news: News) -> None:
                show(news)
                if news.resumed:
                    resumed.append((news.phase, news.step))
                values = {f"{news.phase}/{name}": value for name, value in news.metrics.items()}
                record.log_metrics(values, step=news.step)

            outcome = run_group(config, material, on_news=on_news)
        metrics = {**outcome.metrics, "train_seconds": time.monotonic() - began_s}
        # Those of a phase, with a slash in their names, were logged at their steps.
        record.log_metrics({name: value for name, value in metrics.items() if "/" not in name})
        manifest = artefacts.read_manifest(config.export_uri, kind="export")
        version = _register(config, tracker, record, manifest, dataset)
        write_state(config.out, _ended(config, material, record, manifest, version))
        run_id = record.run_id
    return TrainResult(
        export_uri=config.export_uri,
        manifest=manifest,
        run_id=run_id,
        version=version,
        metrics=metrics,
        resumed_at=tuple(resumed),
    )


def _absolute(config: TrainConfig) -> TrainConfig:
    """``config`` with paths that mean the same to workers, which run in another folder."""
    changes: dict[str, object] = {
        "dataset": _absolute_uri(config.dataset),
        "out": _absolute_uri(config.out),
    }
    if isinstance(config.model, PretrainedModel) and Path(config.model.path).is_dir():
        local = {"path": str(Path(config.model.path).absolute())}
        changes["model"] = config.model.model_copy(update=local)
    return config.model_copy(update=changes)


def _absolute_uri(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).absolute())


def _finished(config: TrainConfig, dataset: Manifest) -> TrainResult | None:
    """The result of an earlier start of this very run.

    Raises:
        DataError: An export of another run, or something else, stands in the way.
    """
    if not artefacts.exists(config.export_uri):
        return None
    manifest = artefacts.read_manifest(config.export_uri, kind="export")
    if manifest.name != config.run_name(dataset.content_hash):
        raise DataError(
            f"{config.export_uri}: was trained with other settings or on another dataset; "
            "choose another out or remove it."
        )
    state = read_state(config.out)
    if state is None or state.export_hash != manifest.content_hash:
        return None
    return TrainResult(
        export_uri=config.export_uri,
        manifest=manifest,
        run_id=state.run_id,
        version=None,
        metrics=manifest.facts["metrics"],
        reused=True,
    )


def _tracker(config: TrainConfig) -> Tracker:
    from aligner.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(config.tracking)


def _previous_state(config: TrainConfig, material: Material) -> RunState | None:
    """What an interrupted start of this very run left, if it was recorded in the same place."""
    state = read_state(config.out)
    if state is None or state.run_name != material.run_name:
        return None
    return state if state.tracking_uri == config.tracking.uri else None


def _begun(config: TrainConfig, material: Material, record: Run) -> RunState:
    return RunState(
        run_name=material.run_name, run_id=record.run_id, tracking_uri=config.tracking.uri
    )


def _ended(
    config: TrainConfig,
    material: Material,
    record: Run,
    manifest: Manifest,
    version: ModelVersion | None,
) -> RunState:
    return _begun(config, material, record).model_copy(
        update={
            "export_hash": manifest.content_hash,
            "model_name": version.name if version else None,
            "model_version": version.version if version else None,
        }
    )


def _describe(record: Run, config: TrainConfig, material: Material, dataset: Manifest) -> None:
    record.log_params(config.model_dump(mode="json"))
    record.set_tags(
        {
            "job": "train",
            FINGERPRINT_TAG: dataset.prompt_fingerprint,
            "dataset_hash": dataset.content_hash,
        }
    )
    record.log_dataset(dataset, config.dataset, context="training")
    rows = {f"rows_{split}": float(f.rows_out) for split, f in material.funnels.items()}
    aside = {f"rows_set_aside_{split}": float(sum(f.dropped.values()))
             for split, f in material.funnels.items()}  # fmt: skip
    record.log_metrics(rows | aside)


def _register(
    config: TrainConfig, tracker: Tracker, record: Run, manifest: Manifest, dataset: Manifest
) -> ModelVersion | None:
    if config.register_as is None:
        return None
    return tracker.register(
        config.register_as,
        source=config.export_uri,
        run_id=record.run_id,
        tags={
            FINGERPRINT_TAG: manifest.prompt_fingerprint,
            HASH_TAG: manifest.content_hash,
            "dataset_hash": dataset.content_hash,
            "dataset_uri": config.dataset,
        },
    )


@contextlib.contextmanager
def _show(config: TrainConfig, material: Material) -> Iterator[Callable[[News], None]]:
    """A progress bar over the steps of both phases, on stderr."""
    steps = {phase: material.total_steps(phase, config) for phase in PHASES}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting workers", total=sum(steps.values()), note="")

        def show(news: News) -> None:
            before = steps["warmup"] if news.phase == "correction" else 0
            if news.resumed:
                progress.print(f"resumed at step {news.step} of the {news.phase} phase")
            progress.update(task, description=news.phase, completed=before + news.step)
            if "loss" in news.metrics:
                note = "loss {loss:.4f}  {tokens_per_s:,.0f} tokens/s".format(**news.metrics)
                progress.update(task, note=note)

        yield show


def _summarise(
    console: Console,
    config: TrainConfig,
    metrics: Mapping[str, float],
    version: ModelVersion | None,
) -> None:
    before, after = metrics.get("heldout_loss_before"), metrics.get("heldout_loss")
    if before is not None and after is not None:
        console.print(f"held-out loss {before:.3f} -> {after:.3f}")
    for name in ("copy_rate", "identity_rate"):
        if name in metrics:
            console.print(f"{name.replace('_', ' ')} {metrics[name]:.1%}")
    registered = f", registered as {version.uri}" if version else ""
    console.print(
        f"{config.export_uri}: exported{registered}; {metrics['train_seconds']:.0f} s",
        soft_wrap=True,
    )
