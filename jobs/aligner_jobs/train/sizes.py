"""``aligner train --sizes 0.5b,2b,7b``: several Aligners side by side, and what they came to.

Each size is the very command ``aligner train`` with a config of its own, as a child process in one
Ray session and a child of one run in the tracking server.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from aligner import artefacts
from aligner.config import StrictModel
from aligner.errors import AlignerError, TrainingError
from aligner.lasting_run import lasting_run
from aligner.tracking import Run, Tracker
from aligner.tracking_address import redacted
from aligner_jobs import programs, runtime
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train import comparison
from aligner_jobs.train.comparison import Outcome
from aligner_jobs.train.side_by_side import Ended, Job, Resources, run_side_by_side
from aligner_jobs.train.size import Size

_STATE: Final = "sizes.json"
_LOG: Final = "train.log"


class _State(StrictModel):
    """What the next start of the same command needs to know: ``<out>/sizes.json``."""

    run_id: str
    tracking_uri: str


def run(sizes: Sequence[Size], out: Path, *, tracker: Tracker | None = None) -> list[Outcome]:
    """Train ``sizes`` and compare them in the folder ``out``; run again, it goes on with what had
    not ended.

    Raises:
        TrainingError: Some failed; the others are trained and compared all the same.
    """
    console = Console()
    first = sizes[0].config
    tracker = tracker if tracker is not None else _tracker(first)
    title = f"sizes {', '.join(size.name for size in sizes)}"
    with (
        runtime.ray_session() as address,
        lasting_run(
            tracker,
            title,
            run_id=_run_id(out, first),
            outbox=out / "unsent",
            patience_s=first.tracking.patience_s,
            tell=functools.partial(console.print, markup=False),
        ) as record,
    ):
        _remember(out, first, record)
        record.set_tags({"job": "train-sizes"})
        outcomes = _train(sizes, out, record, address, console)
        _compare(outcomes, record, out)
    console.print(comparison.table(outcomes))
    failed = [one for one in outcomes if one.failure is not None]
    if failed:
        reasons = "; ".join(f"{one.name}: {one.failure}" for one in failed)
        raise TrainingError(
            f"{out}: {len(failed)} of {len(outcomes)} sizes failed ({reasons}); "
            f"read {_LOG} in their folders, mend it and run the same command again."
        )
    return outcomes


def _train(
    sizes: Sequence[Size], out: Path, record: Run, address: str, console: Console
) -> list[Outcome]:
    """All sizes, in the order in which they were named."""
    by_name = {size.name: size for size in sizes}
    outcomes: dict[str, Outcome] = {}
    jobs = []
    for size in sizes:
        try:
            _require(size)
        except AlignerError as exc:
            outcomes[size.name] = Outcome(size.name, size.config.num_workers, failure=str(exc))
            console.print(f"{size.name}: {exc}", markup=False)
            continue
        jobs.append(_job(size, out, record.run_id))

    def started(job: Job) -> None:
        console.print(f"{job.name}: training; see {job.log}", markup=False)

    env = {"RAY_ADDRESS": address}
    running = run_side_by_side(jobs, env, offers=_offered, on_start=started)
    with contextlib.closing(running):
        for ended in running:
            outcomes[ended.name] = outcome = outcome_of(by_name[ended.name], ended)
            console.print(f"{ended.name}: {outcome.failure or 'trained'}", markup=False)
    return [outcomes[size.name] for size in sizes]


def _job(size: Size, out: Path, parent_run_id: str) -> Job:
    sets = (*size.overrides, f"tracking.parent_run_id={parent_run_id}")
    config = size.config
    needs = {"CPU": float(config.num_workers * config.cpus_per_worker)}
    return Job(
        name=size.name,
        command=programs.command("train", size.path, sets),
        log=out / size.name / _LOG,
        needs=needs | ({"GPU": float(config.num_workers)} if config.use_gpu else {}),
    )


def outcome_of(size: Size, ended: Ended) -> Outcome:
    """What the run left, or the last line that it printed."""
    outcome = Outcome(size.name, size.config.num_workers, seconds=ended.seconds)
    if ended.code:
        log = Path(size.config.out) / _LOG
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = next((line for line in reversed(lines) if line.startswith("error: ")), "")
        said = reason.removeprefix("error: ").rstrip(".")
        return replace(outcome, failure=said or f"ended with exit code {ended.code}")
    facts = artefacts.read_manifest(size.config.export_uri, kind="export").facts
    metrics: dict[str, float] = dict(facts["metrics"])
    if "correction/tokens_per_s" in metrics:
        metrics["tokens_per_s"] = metrics["correction/tokens_per_s"]
    return replace(outcome, parameters=facts["parameters"], metrics=metrics)


def _compare(outcomes: Sequence[Outcome], record: Run, out: Path) -> None:
    record.log_table("comparison", [one.cells() for one in outcomes])
    for one in outcomes:
        if one.parameters:
            chosen = ("heldout_loss", "copy_rate", "identity_rate")
            values = {name: one.metrics[name] for name in chosen if name in one.metrics}
            # The steps of this run are sizes, so that MLflow draws these over the parameters.
            record.log_metrics(values, step=one.parameters // 1000)
    with tempfile.TemporaryDirectory(prefix="aligner-sizes-") as folder:
        page = Path(folder) / comparison.PAGE_FILE
        page.write_text(comparison.page(outcomes), encoding="utf-8")
        record.log_artifact(page)
        (out / comparison.PAGE_FILE).write_bytes(page.read_bytes())
    (out / "comparison.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=2))


def _require(size: Size) -> None:
    """A private Ray never grows, and a run that waits for more would wait for ever."""
    if not os.environ.get("RAY_ADDRESS"):
        from aligner_jobs.train.group import require_resources

        require_resources(size.config, _offered())


def _offered() -> Resources:
    import ray

    offered: Resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return offered


def _run_id(out: Path, config: TrainConfig) -> str | None:
    """The run that an earlier start of this command has opened, if it is still there to be had."""
    file = out / _STATE
    if not file.is_file():
        return None
    state = _State.model_validate_json(file.read_text(encoding="utf-8"))
    return state.run_id if state.tracking_uri == redacted(config.tracking.uri) else None


def _remember(out: Path, config: TrainConfig, record: Run) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = _State(run_id=record.run_id, tracking_uri=redacted(config.tracking.uri))
    (out / _STATE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _tracker(config: TrainConfig) -> Tracker:
    from aligner.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(config.tracking)
