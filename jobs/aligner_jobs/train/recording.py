"""What a training run leaves in the tracking server, and in its folder so that it can go on."""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from aligner.errors import AlignerError
from aligner.exports import FINGERPRINT_TAG, HASH_TAG
from aligner.lasting_run import LastingRun, Tell, lasting_run, patiently
from aligner.manifest import Manifest
from aligner.tracking import DESCRIPTION_TAG, ModelVersion, Run, Tracker
from aligner.tracking_address import redacted
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train import curves
from aligner_jobs.train.material import Material
from aligner_jobs.train.progress import News
from aligner_jobs.train.run_state import RunState, read_state, write_state

_METRICS: Final[Mapping[str, str]] = {
    "loss": "training loss per target token since the reading before",
    "heldout_loss": "the same on held-out rows, always that of correcting",
    **{name: f"{note} (sampled)" for name, note in curves.NOTES.items()},
    "learning_rate": "of the last step",
    "tokens_per_s": "of all workers together, padding not counted",
    "evaluation_s": "how long the evaluation took",
}


class Recorder:
    """Writes down what the workers tell."""

    def __init__(self, run: Run) -> None:
        """Into ``run``."""
        self._run = run
        self.samples: Sequence[Mapping[str, str | float]] = ()
        """Those of the last evaluation."""

    def hear(self, news: News) -> None:
        """Log its numbers at its step, and its samples as a table of their own."""
        values = {f"{news.phase}/{name}": value for name, value in news.metrics.items()}
        self._run.log_metrics(values, step=news.step)
        if news.samples:
            self._run.log_table(f"samples/{news.phase}-{news.step:07d}", news.samples)
            self.samples = news.samples


def connected(config: TrainConfig, make: Callable[[], Tracker], *, tell: Tell) -> Tracker:
    """The tracker that ``make`` makes, once its server answers.

    Raises:
        TrackingError: It does not in time, or refuses.
    """
    return patiently(make, None, patience_s=config.tracking.patience_s, tell=tell)


@contextlib.contextmanager
def recorded(
    config: TrainConfig, tracker: Tracker, name: str, *, state: RunState | None, tell: Tell
) -> Iterator[LastingRun]:
    """Open the run ``name``, or the one that ``state`` names; why it failed becomes a tag of it.

    Raises:
        TrackingAway: The server did not answer in time, at the start or at the end.
    """
    with lasting_run(
        tracker,
        name,
        run_id=state.run_id if state else None,
        parent_run_id=config.tracking.parent_run_id,
        outbox=outbox_of(config, name),
        patience_s=config.tracking.patience_s,
        tell=tell,
    ) as run:
        write_state(config.out, begun(config, name, run))
        try:
            yield run
        except AlignerError as exc:
            run.set_tags({"failure": str(exc)})
            raise


def outbox_of(config: TrainConfig, name: str) -> Path:
    """Where the run ``name`` keeps what it could not send; on this machine in any case."""
    if "://" not in config.out:
        return Path(config.out) / "unsent"
    key = hashlib.sha256(f"{config.out} {name}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"aligner-unsent-{key}"


def previous_state(config: TrainConfig, name: str) -> RunState | None:
    """What an earlier start of the run ``name`` left, if it was recorded in the same place."""
    state = read_state(config.out)
    if state is None or state.run_name != name:
        return None
    return state if state.tracking_uri == redacted(config.tracking.uri) else None


def begun(config: TrainConfig, name: str, run: Run) -> RunState:
    """The state of a run that has no export yet."""
    return RunState(run_name=name, run_id=run.run_id, tracking_uri=redacted(config.tracking.uri))


def ended(state: RunState, manifest: Manifest, version: ModelVersion | None) -> RunState:
    """The state of a run of which nothing is left to do."""
    return state.model_copy(
        update={
            "export_hash": manifest.content_hash,
            "model_name": version.name if version else None,
            "model_version": version.version if version else None,
        }
    )


def describe(run: Run, config: TrainConfig, material: Material, dataset: Manifest) -> None:
    """Say what is trained on what."""
    run.log_params(config.model_dump(mode="json"))
    run.set_tags(
        {
            "job": "train",
            FINGERPRINT_TAG: dataset.prompt_fingerprint,
            "dataset_hash": dataset.content_hash,
            DESCRIPTION_TAG: _description(config, dataset, "Training has not ended yet."),
        }
    )
    run.log_dataset(dataset, config.dataset, context="training")
    rows = {f"rows_{split}": float(f.rows_out) for split, f in material.funnels.items()}
    aside = {f"rows_set_aside_{split}": float(sum(f.dropped.values()))
             for split, f in material.funnels.items()}  # fmt: skip
    run.log_metrics(rows | aside)


def conclude(
    run: LastingRun,
    tracker: Tracker,
    config: TrainConfig,
    dataset: Manifest,
    *,
    manifest: Manifest,
    metrics: Mapping[str, float],
    samples: Sequence[Mapping[str, str | float]] = (),
    tell: Tell,
) -> ModelVersion | None:
    """Register the export, and record the last numbers and the page of the run."""
    # Those of a phase, with a slash in their names, were logged at their steps.
    run.log_metrics({name: value for name, value in metrics.items() if "/" not in name})
    version = patiently(
        lambda: _register(config, tracker, run, manifest, dataset),
        tracker,
        patience_s=config.tracking.patience_s,
        tell=tell,
    )
    with tempfile.TemporaryDirectory(prefix="aligner-page-") as folder:
        page = Path(folder) / curves.PAGE_FILE
        text = curves.render(manifest.name, run.history(), metrics, samples=samples)
        page.write_text(text, encoding="utf-8")
        run.log_artifact(page)
    run.set_tags({DESCRIPTION_TAG: _description(config, dataset, _results(metrics, version))})
    return version


def _register(
    config: TrainConfig, tracker: Tracker, run: Run, manifest: Manifest, dataset: Manifest
) -> ModelVersion | None:
    if config.register_as is None:
        return None
    return tracker.register(
        config.register_as,
        source=config.export_uri,
        run_id=run.run_id,
        tags={
            FINGERPRINT_TAG: manifest.prompt_fingerprint,
            HASH_TAG: manifest.content_hash,
            "dataset_hash": dataset.content_hash,
            "dataset_uri": config.dataset,
        },
    )


def _results(metrics: Mapping[str, float], version: ModelVersion | None) -> str:
    """The numbers that people ask for first."""
    said = []
    if "heldout_loss_before" in metrics and "heldout_loss" in metrics:
        said.append(
            "held-out loss **{heldout_loss_before:.3f} → {heldout_loss:.3f}**".format(**metrics)
        )
    said += [
        f"{name.replace('_', ' ')} {metrics[name]:.1%}"
        for name in ("copy_rate", "identity_rate", "teacher_similarity")
        if name in metrics
    ]
    if version is not None:
        said.append(f"registered as `{version.uri}`")
    return f"{', '.join(said) or 'Trained'}. How it went: artifact `{curves.PAGE_FILE}`."


def _description(config: TrainConfig, dataset: Manifest, results: str) -> str:
    rows = ", ".join(f"{count:,} {split}" for split, count in sorted(dataset.counts.items()))
    meanings = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in _METRICS.items())
    return (
        f"{results}\n\n"
        f"Dataset `{dataset.name}` ({rows}), {config.num_workers} workers, ZeRO-"
        f"{config.zero.stage}, {config.global_batch_size} rows per step.\n\n"
        "Metrics that begin with `warmup/` and `correction/` go by the optimiser steps of that "
        "phase; those without are the last ones.\n\n"
        f"| metric | what it means |\n|---|---|\n{meanings}\n"
    )
