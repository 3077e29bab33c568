"""``aligner train``: a dataset to an exported, registered Aligner."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aligner import artefacts, exports
from aligner.errors import DataError
from aligner.lasting_run import Tell
from aligner.manifest import Manifest
from aligner.tracking import ModelVersion, Tracker
from aligner_jobs import runtime
from aligner_jobs.config.model import PretrainedModel
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.terminal import quiet_ray_data
from aligner_jobs.train import recording
from aligner_jobs.train.encoding import through_ray_data
from aligner_jobs.train.group import run_group
from aligner_jobs.train.material import PHASES, Material, load, survey
from aligner_jobs.train.parity import parity_metrics
from aligner_jobs.train.progress import News
from aligner_jobs.train.run_state import read_state, write_state


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
        TrainingError: Training cannot go on, or vLLM and Transformers disagree about the export.
        TrackingError: The tracking server does not answer in time, at the start or at the end.
    """
    console, errors = Console(), Console(stderr=True)
    config = _absolute(config)
    dataset = artefacts.read_manifest(config.dataset, kind="dataset")
    standing = _standing(config, dataset)
    if standing is not None and (finished := _finished(config, standing)) is not None:
        console.print(f"{config.export_uri}: trained already with these settings; nothing to do.")
        return finished
    began_s = time.monotonic()
    found = survey(config, dataset)
    if tracker is None:
        tracker = recording.connected(config, lambda: _tracker(config), tell=_tell(errors))
    if standing is not None:
        result = _recorded_later(config, dataset, standing, tracker, errors=errors)
    else:
        quiet_ray_data()
        with runtime.ray_session():
            material = load(config, dataset, found, spread=through_ray_data)
            result = _trained(config, dataset, material, tracker, errors=errors, began_s=began_s)
    _summarise(console, config, result.metrics, result.version)
    return result


def _trained(
    config: TrainConfig,
    dataset: Manifest,
    material: Material,
    tracker: Tracker,
    *,
    errors: Console,
    began_s: float,
) -> TrainResult:
    """Train, register and record, inside a Ray session."""
    name, tell = material.run_name, _tell(errors)
    state = recording.previous_state(config, name)
    with recording.recorded(config, tracker, name, state=state, tell=tell) as record:
        if state is None:
            recording.describe(record, config, material, dataset)
        resumed = []
        recorder = recording.Recorder(record)
        with _show(config, material, errors) as show:

            def on_news(news: News) -> None:
                show(news)
                if news.resumed:
                    resumed.append((news.phase, news.step))
                recorder.hear(news)

            outcome = run_group(config, material, on_news=on_news)
        metrics = {**outcome.metrics, "train_seconds": time.monotonic() - began_s}
        manifest = artefacts.read_manifest(config.export_uri, kind="export")
        metrics |= parity_metrics(config, manifest)
        version = recording.conclude(
            record,
            tracker,
            config,
            dataset,
            manifest=manifest,
            metrics=metrics,
            samples=recorder.samples,
            tell=tell,
        )
        begun = recording.begun(config, name, record)
    write_state(config.out, recording.ended(begun, manifest, version))
    return TrainResult(
        export_uri=config.export_uri,
        manifest=manifest,
        run_id=begun.run_id,
        version=version,
        metrics=metrics,
        resumed_at=tuple(resumed),
    )


def _recorded_later(
    config: TrainConfig, dataset: Manifest, export: Manifest, tracker: Tracker, *, errors: Console
) -> TrainResult:
    """Check and record an export whose training ended, but not what follows it."""
    tell = _tell(errors)
    state = recording.previous_state(config, export.name)
    metrics = {**export.facts["metrics"], **parity_metrics(config, export)}
    with recording.recorded(config, tracker, export.name, state=state, tell=tell) as record:
        version = recording.conclude(
            record, tracker, config, dataset, manifest=export, metrics=metrics, tell=tell
        )
        begun = recording.begun(config, export.name, record)
    write_state(config.out, recording.ended(begun, export, version))
    return TrainResult(
        export_uri=config.export_uri,
        manifest=export,
        run_id=begun.run_id,
        version=version,
        metrics=metrics,
    )


def _tell(errors: Console) -> Tell:
    return functools.partial(errors.print, markup=False, highlight=False)


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


def _standing(config: TrainConfig, dataset: Manifest) -> Manifest | None:
    """This very run's export, where an earlier start has left one.

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
    if config.export.adapter and exports.adapter_of(manifest) is None:
        raise DataError(
            f"{config.export_uri}: was trained without export.adapter=true and holds no adapter; "
            "choose another out or remove it."
        )
    return manifest


def _finished(config: TrainConfig, export: Manifest) -> TrainResult | None:
    """The result of an earlier start of which nothing is left to do."""
    state = read_state(config.out)
    if state is None or state.export_hash != export.content_hash:
        return None
    return TrainResult(
        export_uri=config.export_uri,
        manifest=export,
        run_id=state.run_id,
        version=None,
        metrics=export.facts["metrics"],
        reused=True,
    )


def _tracker(config: TrainConfig) -> Tracker:
    from aligner.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(config.tracking)


@contextlib.contextmanager
def _show(
    config: TrainConfig, material: Material, errors: Console
) -> Iterator[Callable[[News], None]]:
    """A progress bar over the steps of both phases."""
    steps = {phase: material.total_steps(phase, config) for phase in PHASES}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=errors) as progress:
        task = progress.add_task("starting workers", total=sum(steps.values()), note="")

        def show(news: News) -> None:
            if news.evaluated:
                # It tells of a step that training has left behind.
                return
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
    seconds = f"; {metrics['train_seconds']:.0f} s" if "train_seconds" in metrics else ""
    console.print(f"{config.export_uri}: exported{registered}{seconds}", soft_wrap=True)
