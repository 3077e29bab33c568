"""``aligner build-dataset``: questions or ready pairs to a filtered, split dataset of triples."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray.data
from rich.console import Console

from aligner import artefacts
from aligner.errors import AlignerError, DataError
from aligner.manifest import Manifest, provenance
from aligner.tracking import Run, Tracker
from aligner_jobs import dataset_files, decontaminate, near_duplicates, runtime
from aligner_jobs.asking import Desk
from aligner_jobs.asking import desk as open_desk
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.sources import SimworldSource
from aligner_jobs.dataset_files import FindNear
from aligner_jobs.dataset_output import Output
from aligner_jobs.dataset_pipeline import (
    Inputs,
    finished_rows,
    run_aligners,
    run_local_upstreams,
)
from aligner_jobs.endpoints import (
    aligners,
    endpoints,
    local_upstreams,
    require_alive,
    require_replies,
)
from aligner_jobs.generate import probe
from aligner_jobs.ledger import metrics_of
from aligner_jobs.local_teachers import hired
from aligner_jobs.local_upstreams import require_usable
from aligner_jobs.redacting import RedactionCount
from aligner_jobs.sources import listed, pieces
from aligner_jobs.tables import STEPS, Step, Tally
from aligner_jobs.terminal import progress_bar, quiet_ray_data, show_funnel, show_ledger


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a run made, or found made already."""

    uri: str
    manifest: Manifest
    reused: bool


def run(config: BuildDatasetConfig, *, tracker: Tracker | None = None) -> BuildResult:
    """Build the dataset that ``config`` describes and publish it at ``config.out``.

    Raises:
        DataError: A source is missing, empty or too bad; no row is left to train on; or
            something else stands at ``out``.
        EndpointError: An upstream or the teacher does not answer.
        GenerationError: Too many of their replies failed.
        GateRefused: The rows as a whole are not fit to train on; a page beside ``out`` says why.
    """
    console = Console()
    if (found := _published(config)) is not None:
        console.print(f"{config.out}: built already with these settings; nothing to do.")
        return BuildResult(config.out, found, reused=True)
    inputs, output = _inputs(config), Output.prepare(config)
    tracker = _tracker(config, tracker)
    started = time.monotonic()
    quiet_ray_data()
    with (
        hired(aligners(config), tracker) as found_aligners,
        tracker.run(f"build-dataset {config.name}") as record,
        artefacts.staging(config.out) as stage,
    ):
        record.log_params(config.model_dump(mode="json"))
        with runtime.ray_session(), _errors_of_workers(), _desk(config) as desk:
            inputs = replace(inputs, aligners=found_aligners)
            found_out = _write(config, inputs, output, desk, stage, record)
        manifest = _publish(config, stage, found_out)
        output.forget_refusal()
        ledger = manifest.facts["ledger"]
        record.log_metrics({f"rows_{name}": float(rows) for name, rows in manifest.counts.items()})
        record.log_metrics(metrics_of(ledger))
        record.log_dataset(manifest, config.out, context="output")
    show_funnel(console, manifest, uri=config.out, seconds=time.monotonic() - started)
    show_ledger(console, ledger)
    return BuildResult(config.out, manifest, reused=False)


def _inputs(config: BuildDatasetConfig) -> Inputs:
    """Find what there is to read, and see that everybody who will be asked is there."""
    work = [piece for name, source in config.sources.items() for piece in pieces(name, source)]
    leaks = decontaminate.index(config)
    for name, upstream in local_upstreams(config).items():
        require_usable(name, upstream)
    asyncio.run(probe(list(endpoints(config).values())))
    return Inputs(work, leaks)


def _write(
    config: BuildDatasetConfig,
    inputs: Inputs,
    output: Output,
    desk: Desk,
    stage: artefacts.Staging,
    record: Run,
) -> dict[str, Any]:
    """Run the pipeline and fill the folder of ``stage``; what its manifest says of the rows."""
    runtime.bound_ray_data()
    run_local_upstreams(config, inputs, desk)
    run_aligners(config, inputs, desk)
    redactions = RedactionCount(then=output.profile.look)
    tally, counts = dataset_files.write(
        _tables(finished_rows(config, inputs, desk), config),
        stage.path,
        heldout_share=config.heldout_share,
        warmup_share=config.warmup_share,
        find_near=_find_near(config),
        mix=config.mix,
        look=redactions.look,
    )
    require_replies(config, tally)
    output.require_mixed(tally)
    _require_rows(config, tally, counts)
    facts = {
        "sources": _source_facts(config, tally),
        "identity": config.identity(),
        "ledger": desk.ledger(),
    }
    if config.pii is not None:
        facts["pii"] = redactions.facts()
    funnel = tally.funnel(_steps(config))
    facts = output.finish(
        stage.path, record, tally=tally, counts=counts, funnel=funnel, facts=facts
    )
    taught = [one.subject for one in inputs.aligners.values()]
    parents = tuple(one.manifest.as_parent(one.uri) for one in taught)
    return {"counts": counts, "funnel": funnel, "facts": facts, "parents": parents}


def _tables(rows: ray.data.Dataset, config: BuildDatasetConfig) -> Iterator[pa.Table]:
    """Run the pipeline under a progress bar; its rows in whatever order they are done."""
    with progress_bar("build-dataset", total=_expected_rows(config), unit="rows") as advance:
        batches: Iterable[Any] = rows.iter_batches(batch_size=None, batch_format="pyarrow")
        for table in batches:
            require_alive(config, table)
            yield table
            advance(table.num_rows)


def _find_near(config: BuildDatasetConfig) -> FindNear | None:
    if config.near_duplicates is None:
        return None
    return functools.partial(near_duplicates.find, config=config.near_duplicates)


def _desk(config: BuildDatasetConfig) -> contextlib.AbstractContextManager[Desk]:
    local = {f"upstreams.{name}": one for name, one in local_upstreams(config).items()}
    taught = {f"teachers.{name}": one for name, one in aligners(config).items()}
    return open_desk(
        {**endpoints(config), **local, **taught},
        replies=config.replies or f"{config.out}.replies",
        salt=str(config.seed),
        workers=config.workers,
    )


def _published(config: BuildDatasetConfig) -> Manifest | None:
    """The manifest of an equal dataset at ``out``, ``None`` where there is nothing yet."""
    if not artefacts.exists(config.out):
        return None
    manifest = artefacts.read_manifest(config.out, kind="dataset")
    if manifest.facts.get("identity") != config.identity():
        raise DataError(
            f"{config.out}: a dataset with other settings is there already; "
            "choose another out or remove it."
        )
    return manifest


def _publish(
    config: BuildDatasetConfig, stage: artefacts.Staging, found_out: dict[str, Any]
) -> Manifest:
    template = config.prompt.template
    return stage.publish(
        kind="dataset",
        name=config.name,
        prompt=template,
        prompt_fingerprint=template.fingerprint,
        spec=config.model_dump(mode="json"),
        **found_out,
        **provenance(),
    )


def _tracker(config: BuildDatasetConfig, given: Tracker | None) -> Tracker:
    if given is not None:
        return given
    from aligner.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(config.tracking)


@contextlib.contextmanager
def _errors_of_workers() -> Iterator[None]:
    """Raise an error of ours that a worker raised as itself, without Ray's wrapping."""
    try:
        yield
    except Exception as exc:
        ours = exc if isinstance(exc, AlignerError) else None
        cause: BaseException | None = exc
        while cause is not None:
            ours = cause if isinstance(cause, AlignerError) else ours
            cause = getattr(cause, "cause", None) or cause.__cause__
        if ours is None:
            raise
        # Ray adds lines of its own to the message of what it passes on; ours are one sentence.
        raise type(ours)(str(ours).partition("\n")[0]) from None


def _steps(config: BuildDatasetConfig) -> list[Step]:
    left_out = set[Step]()
    if not config.asks_upstreams:
        left_out.add("answers")
    if not config.asks:
        left_out.add("corrections")
    if config.judge is None:
        left_out.add("judge")
    if config.decontamination is None:
        left_out.add("decontamination")
    if not config.mix:
        left_out.add("mix")
    return [step for step in STEPS if step not in left_out]


def _expected_rows(config: BuildDatasetConfig) -> int | None:
    """Known only where all sources are made in memory."""
    limits = [
        source.limit for source in config.sources.values() if isinstance(source, SimworldSource)
    ]
    if len(limits) < len(config.sources):
        return None
    return sum(limits) * config.rows_per_question


def _source_facts(config: BuildDatasetConfig, tally: Tally) -> dict[str, Any]:
    """For each source: rows read and set aside while reading, in the source's own rows."""
    facts = {}
    for name in config.sources:
        per_row = config.rows_per_record(name)
        dropped = tally.dropped("read", source=name)
        facts[name] = {
            "rows_read": tally.total(name) // per_row,
            "set_aside": {reason: rows // per_row for reason, rows in dropped.items()},
        }
    return facts


def _require_rows(config: BuildDatasetConfig, tally: Tally, counts: dict[str, int]) -> None:
    """Raise where nothing is left to train on."""
    if not counts[dataset_files.TRAIN]:
        steps = tally.funnel(_steps(config))
        lost = ", ".join(listed(step.dropped) for step in steps if step.dropped)
        raise DataError(
            f"{config.out}: no row is left to train on ({lost or 'all held out'}); "
            "loosen the filters or add data."
        )
