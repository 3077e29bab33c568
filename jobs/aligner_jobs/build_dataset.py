"""``aligner build-dataset``: questions or ready pairs to a filtered, split dataset of triples."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, assert_never

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import ActorPoolStrategy, Dataset
from rich.console import Console

from aligner import artefacts
from aligner.errors import AlignerError, DataError, EndpointError, GenerationError
from aligner.manifest import Manifest, provenance
from aligner.tracking import Tracker
from aligner_jobs import dataset_files, runtime
from aligner_jobs.config.asking import OpenAITeacher, SimworldTeacher
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.sources import SimworldSource
from aligner_jobs.generate import GAVE_UP, AskTeacher, AskUpstreams, probe
from aligner_jobs.sources import Piece, listed, pieces
from aligner_jobs.stages import ROWS_PER_BLOCK, judge, read_piece, teach_simworld
from aligner_jobs.tables import STEPS, Step, Tally
from aligner_jobs.terminal import progress_bar, quiet_ray_data, show_funnel

_ROWS_PER_BATCH: Final = 32
"""Ray Data keeps four batches of a worker going at a time."""


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
    """
    console = Console()
    if (found := _published(config)) is not None:
        console.print(f"{config.out}: built already with these settings; nothing to do.")
        return BuildResult(config.out, found, reused=True)
    work = [piece for name, source in config.sources.items() for piece in pieces(name, source)]
    asyncio.run(probe(_endpoints(config)))
    started = time.monotonic()
    quiet_ray_data()
    with (
        _tracker(config, tracker).run(f"build-dataset {config.name}") as record,
        artefacts.staging(config.out) as stage,
    ):
        record.log_params(config.model_dump(mode="json"))
        with runtime.ray_session(), _errors_of_workers():
            tally, counts = dataset_files.write(
                _tables(_finished(config, work), config),
                stage.path,
                heldout_share=config.heldout_share,
                warmup_share=config.warmup_share,
            )
        _require_enough(config, tally, counts)
        template = config.prompt.template
        manifest = stage.publish(
            kind="dataset",
            name=config.name,
            prompt=template,
            prompt_fingerprint=template.fingerprint,
            counts=counts,
            funnel=tally.funnel(_steps(config)),
            facts={"sources": _source_facts(config, tally), "identity": config.identity()},
            spec=config.model_dump(mode="json"),
            **provenance(),
        )
        record.log_metrics({f"rows_{name}": float(rows) for name, rows in counts.items()})
        record.log_dataset(manifest, config.out, context="output")
    show_funnel(console, manifest, uri=config.out, seconds=time.monotonic() - started)
    return BuildResult(config.out, manifest, reused=False)


# --- the pipeline ---------------------------------------------------------------------------------


def _finished(config: BuildDatasetConfig, work: list[Piece]) -> Dataset:
    """Columns out: :data:`aligner_jobs.tables.WORK_SCHEMA`. Rows: all, dropped ones included."""
    rows = _read(config, work)
    if config.asks:
        rows = rows.repartition(target_num_rows_per_block=ROWS_PER_BLOCK)
        rows = _answered(rows, config)
        rows = _corrected(rows, config)
    return rows.map_batches(
        functools.partial(judge, config=config.filters.model_dump(mode="json")),
        batch_format="pyarrow",
        batch_size=None,
        concurrency=config.workers if config.asks else None,
    )


def _read(config: BuildDatasetConfig, work: list[Piece]) -> Dataset:
    """Columns out: WORK_SCHEMA. Rows: one per row of the sources, bad ones dropped by reason."""
    items = [{"name": piece.name, "path": piece.path} for piece in work]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        functools.partial(read_piece, config=config.model_dump(mode="json")),
        batch_format="pyarrow",
        batch_size=1,
    )


def _answered(rows: Dataset, config: BuildDatasetConfig) -> Dataset:
    """Columns as they were, ``answer`` filled. Rows: each question times upstreams and samples."""
    upstreams = {name: one.model_dump(mode="json") for name, one in config.upstreams.items()}
    return _asking(rows, AskUpstreams, {"upstreams": upstreams}, workers=config.workers)


def _corrected(rows: Dataset, config: BuildDatasetConfig) -> Dataset:
    """Columns as they were, ``correction`` filled. Rows: the same."""
    match config.teacher:
        case SimworldTeacher():
            return rows.map_batches(
                functools.partial(teach_simworld, seed=config.seed),
                batch_format="pyarrow",
                batch_size=None,
                concurrency=config.workers,
            )
        case OpenAITeacher() as teacher:
            settings = {"teacher": teacher.model_dump(mode="json")}
            return _asking(rows, AskTeacher, settings, workers=config.workers)
        case None:
            return rows
        case unreachable:
            assert_never(unreachable)


def _asking(rows: Dataset, stage: type, settings: dict[str, Any], *, workers: int) -> Dataset:
    return rows.map_batches(
        stage,
        fn_constructor_kwargs=settings,
        batch_format="pyarrow",
        batch_size=_ROWS_PER_BATCH,
        compute=ActorPoolStrategy(size=workers),
        # They mostly wait; two of them may share a core.
        num_cpus=0.5,
    )


def _tables(rows: Dataset, config: BuildDatasetConfig) -> Iterator[pa.Table]:
    """Run the pipeline under a progress bar; its rows in whatever order they are done."""
    with progress_bar("build-dataset", total=_expected_rows(config), unit="rows") as advance:
        batches: Iterable[Any] = rows.iter_batches(batch_size=None, batch_format="pyarrow")
        for table in batches:
            _require_alive(config, table)
            yield table
            advance(table.num_rows)


# --- before and after -----------------------------------------------------------------------------


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


def _endpoints(config: BuildDatasetConfig) -> list[Any]:
    teacher = [config.teacher] if isinstance(config.teacher, OpenAITeacher) else []
    return [*config.upstreams.values(), *teacher]


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
    asked = ("answers", "corrections")
    return [step for step in STEPS if config.asks or step not in asked]


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


def _require_alive(config: BuildDatasetConfig, table: pa.Table) -> None:
    """Raise where a worker found nobody behind an endpoint, again and again."""
    gone = table.filter(pc.starts_with(table["reason"], GAVE_UP))
    if not gone.num_rows:
        return
    row = gone.slice(0, 1).to_pylist()[0]
    if row["step"] == "corrections" and isinstance(config.teacher, OpenAITeacher):
        whose, endpoint = "the teacher", config.teacher.base_url
    else:
        whose, endpoint = (
            f"upstream {row['upstream']!r}",
            config.upstreams[row["upstream"]].base_url,
        )
    reason = row["reason"].removeprefix(GAVE_UP)
    raise EndpointError(
        f"{endpoint}: {whose} refused one request after the other ({reason}); nothing was "
        "written, see to it and run the same command again."
    )


def _require_enough(config: BuildDatasetConfig, tally: Tally, counts: dict[str, int]) -> None:
    """Raise where too many replies failed, or nothing is left to train on."""
    asked: list[tuple[Step, str | None]] = [("answers", name) for name in config.upstreams]
    for step, upstream in [*asked, ("corrections", None)]:
        reasons = tally.dropped(step, upstream=upstream)
        failed, total = sum(reasons.values()), tally.reached(step, upstream=upstream)
        if failed > config.max_failed_share * total:
            whose = f"upstream {upstream!r}" if upstream else "the teacher"
            raise GenerationError(
                f"{config.out}: {failed} of {total} replies of {whose} failed "
                f"({listed(reasons)}), more than "
                f"max_failed_share={config.max_failed_share:g} permits; nothing was written, "
                "see to the endpoint or raise the limit."
            )
    if not counts[dataset_files.TRAIN]:
        steps = tally.funnel(_steps(config))
        lost = ", ".join(listed(step.dropped) for step in steps if step.dropped)
        raise DataError(
            f"{config.out}: no row is left to train on ({lost or 'all held out'}); "
            "loosen the filters or add data."
        )
