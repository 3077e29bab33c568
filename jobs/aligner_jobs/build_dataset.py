"""``aligner build-dataset``: questions or ready pairs to a filtered, split dataset of triples."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import Dataset
from rich.console import Console

from aligner import artefacts
from aligner.decontamination import LeakIndex
from aligner.errors import AlignerError, DataError
from aligner.manifest import Manifest, provenance
from aligner.tracking import Tracker
from aligner_jobs import dataset_files, decontaminate, near_duplicates, runtime
from aligner_jobs.asking import ROWS_PER_BLOCK, Desk
from aligner_jobs.asking import desk as open_desk
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.sources import SimworldSource
from aligner_jobs.config.teaching import OpenAITeacher, SimworldTeacher
from aligner_jobs.dataset_files import FindNear
from aligner_jobs.dataset_output import Output
from aligner_jobs.decontaminate import drop_leaks
from aligner_jobs.endpoints import endpoints, local_upstreams, require_alive, require_replies
from aligner_jobs.generate import AskUpstreams, probe
from aligner_jobs.judging import AskJudge
from aligner_jobs.ledger import metrics_of
from aligner_jobs.local_upstreams import fill, require_usable
from aligner_jobs.redacting import RedactionCount, redact_rows
from aligner_jobs.sources import Piece, listed, pieces
from aligner_jobs.stages import judge, read_piece, sketch
from aligner_jobs.tables import STEPS, Step, Tally
from aligner_jobs.teaching import AskTeachers, teach_simworld
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
    work = [piece for name, source in config.sources.items() for piece in pieces(name, source)]
    output = Output.prepare(config)
    redactions = RedactionCount(then=output.profile.look)
    leaks = decontaminate.index(config)
    for name, upstream in local_upstreams(config).items():
        require_usable(name, upstream)
    asyncio.run(probe(list(endpoints(config).values())))
    started = time.monotonic()
    quiet_ray_data()
    with (
        _tracker(config, tracker).run(f"build-dataset {config.name}") as record,
        artefacts.staging(config.out) as stage,
    ):
        record.log_params(config.model_dump(mode="json"))
        with runtime.ray_session(), _errors_of_workers(), _desk(config) as desk:
            runtime.bound_ray_data()
            _run_local_upstreams(config, work, leaks, desk)
            tally, counts = dataset_files.write(
                _tables(_sketched(_finished(config, work, leaks, desk), config), config),
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
            funnel = tally.funnel(_steps(config))
            facts = {"sources": _source_facts(config, tally), "identity": config.identity()}
            ledger = desk.ledger()
            facts["ledger"] = ledger
            if config.pii is not None:
                facts["pii"] = redactions.facts()
            facts = output.finish(
                stage.path, record, tally=tally, counts=counts, funnel=funnel, facts=facts
            )
        manifest = _publish(config, stage, counts=counts, funnel=funnel, facts=facts)
        record.log_metrics({f"rows_{name}": float(rows) for name, rows in counts.items()})
        record.log_metrics(metrics_of(ledger))
        record.log_dataset(manifest, config.out, context="output")
    show_funnel(console, manifest, uri=config.out, seconds=time.monotonic() - started)
    show_ledger(console, ledger)
    return BuildResult(config.out, manifest, reused=False)


# --- the pipeline ---------------------------------------------------------------------------------


def _finished(
    config: BuildDatasetConfig, work: list[Piece], leaks: LeakIndex | None, desk: Desk
) -> Dataset:
    """Columns out: :data:`aligner_jobs.tables.WORK_SCHEMA`. Rows: all, dropped ones included."""
    rows = _read(config, work, leaks)
    if config.asks:
        rows = _ready_to_ask(rows, config)
        if config.asks_upstreams:
            # Teachers are others than upstreams, and are not told what an answer gives away.
            rows = _redacted(_answered(rows, config, desk), config)
        rows = _corrected(rows, config, desk)
    rows = _redacted(rows, config).map_batches(
        functools.partial(judge, config=config.filters.model_dump(mode="json")),
        batch_format="pyarrow",
        batch_size=None,
        concurrency=config.workers if config.asks else None,
    )
    if config.judge is None:
        return rows
    return desk.ask(rows, AskJudge, judge=config.judge.model_dump(mode="json"))


def _ready_to_ask(rows: Dataset, config: BuildDatasetConfig) -> Dataset:
    """Columns as they were. Rows: the same, in blocks for the asking stages."""
    # What upstreams and teachers are sent leaves the house.
    return _redacted(rows, config).repartition(target_num_rows_per_block=ROWS_PER_BLOCK)


def _run_local_upstreams(
    config: BuildDatasetConfig, work: list[Piece], leaks: LeakIndex | None, desk: Desk
) -> None:
    for name, upstream in local_upstreams(config).items():
        questions = _ready_to_ask(_read(config, work, leaks), config)
        fill(name, upstream, questions, desk)


def _read(config: BuildDatasetConfig, work: list[Piece], leaks: LeakIndex | None) -> Dataset:
    """Columns out: WORK_SCHEMA. Rows: one per row of the sources, bad ones dropped by reason."""
    items = [{"name": piece.name, "path": piece.path} for piece in work]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        functools.partial(read_piece, config=config.model_dump(mode="json")),
        batch_format="pyarrow",
        batch_size=1,
    )
    if leaks is None:
        return rows
    return rows.map_batches(
        functools.partial(drop_leaks, index=ray.put(leaks)),
        batch_format="pyarrow",
        batch_size=None,
    )


def _sketched(rows: Dataset, config: BuildDatasetConfig) -> Dataset:
    """Columns as they were, ``sketch`` filled where near-duplicates are looked for."""
    if config.near_duplicates is None:
        return rows
    return rows.map_batches(
        functools.partial(sketch, config=config.near_duplicates.model_dump(mode="json")),
        batch_format="pyarrow",
        batch_size=None,
        concurrency=config.workers if config.asks else None,
    )


def _find_near(config: BuildDatasetConfig) -> FindNear | None:
    if config.near_duplicates is None:
        return None
    return functools.partial(near_duplicates.find, config=config.near_duplicates)


def _redacted(rows: Dataset, config: BuildDatasetConfig) -> Dataset:
    """Columns as they were. Rows: the same, without personal data where that is wanted."""
    if config.pii is None:
        return rows
    return rows.map_batches(
        functools.partial(redact_rows, pii=config.pii.model_dump(mode="json")),
        batch_format="pyarrow",
        batch_size=None,
        concurrency=config.workers if config.asks else None,
    )


def _answered(rows: Dataset, config: BuildDatasetConfig, desk: Desk) -> Dataset:
    """Columns as they were, ``answer`` filled. Rows: each question times upstreams and samples."""
    upstreams = {name: one.model_dump(mode="json") for name, one in config.upstreams.items()}
    return desk.ask(rows, AskUpstreams, upstreams=upstreams)


def _corrected(rows: Dataset, config: BuildDatasetConfig, desk: Desk) -> Dataset:
    """Columns as they were, ``correction`` filled. Rows: the same."""
    teachers = {name: one.model_dump(mode="json") for name, one in config.teachers.items()}
    if any(isinstance(one, SimworldTeacher) for one in config.teachers.values()):
        rows = rows.map_batches(
            functools.partial(teach_simworld, teachers=teachers, seed=config.seed),
            batch_format="pyarrow",
            batch_size=None,
            concurrency=config.workers,
        )
    if any(isinstance(one, OpenAITeacher) for one in config.teachers.values()):
        rows = desk.ask(rows, AskTeachers, teachers=teachers)
    return rows


def _tables(rows: Dataset, config: BuildDatasetConfig) -> Iterator[pa.Table]:
    """Run the pipeline under a progress bar; its rows in whatever order they are done."""
    with progress_bar("build-dataset", total=_expected_rows(config), unit="rows") as advance:
        batches: Iterable[Any] = rows.iter_batches(batch_size=None, batch_format="pyarrow")
        for table in batches:
            require_alive(config, table)
            yield table
            advance(table.num_rows)


# --- before and after -----------------------------------------------------------------------------


def _desk(config: BuildDatasetConfig) -> contextlib.AbstractContextManager[Desk]:
    local = {f"upstreams.{name}": one for name, one in local_upstreams(config).items()}
    return open_desk(
        {**endpoints(config), **local},
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


def _publish(config: BuildDatasetConfig, stage: artefacts.Staging, **found: Any) -> Manifest:
    template = config.prompt.template
    return stage.publish(
        kind="dataset",
        name=config.name,
        prompt=template,
        prompt_fingerprint=template.fingerprint,
        spec=config.model_dump(mode="json"),
        **found,
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
