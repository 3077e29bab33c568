"""The way of a row through Ray Data: read, answered, corrected, judged."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import ray
import ray.data
from ray.data import Dataset

from aligner.decontamination import LeakIndex
from aligner_jobs import local_teachers
from aligner_jobs.asking import ROWS_PER_BLOCK, Desk
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.teaching import OpenAITeacher, SimworldTeacher
from aligner_jobs.decontaminate import drop_leaks
from aligner_jobs.endpoints import local_upstreams
from aligner_jobs.generate import AskUpstreams
from aligner_jobs.judging import AskJudge
from aligner_jobs.local_teachers import Hired
from aligner_jobs.local_upstreams import fill
from aligner_jobs.redacting import redact_rows
from aligner_jobs.sources import Piece
from aligner_jobs.stages import judge, read_piece, sketch
from aligner_jobs.teaching import AskTeachers, teach_simworld


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the pipeline starts from."""

    work: list[Piece]
    leaks: LeakIndex | None
    """The questions of evaluations, where those are kept out."""
    aligners: Mapping[str, Hired] = field(default_factory=dict)
    """The teachers that the job runs itself, by name."""


def finished_rows(config: BuildDatasetConfig, inputs: Inputs, desk: Desk) -> Dataset:
    """Columns out: :data:`aligner_jobs.tables.WORK_SCHEMA`. Rows: all, dropped ones included."""
    rows = _read(config, inputs)
    if config.asks:
        rows = _corrected(_with_answers(rows, config, desk), config, inputs, desk)
    rows = _redacted(rows, config).map_batches(
        functools.partial(judge, config=config.filters.model_dump(mode="json")),
        batch_format="pyarrow",
        batch_size=None,
        concurrency=config.workers if config.asks else None,
    )
    if config.judge is not None:
        rows = desk.ask(rows, AskJudge, judge=config.judge.model_dump(mode="json"))
    return _sketched(rows, config)


def run_local_upstreams(config: BuildDatasetConfig, inputs: Inputs, desk: Desk) -> None:
    """Let each local model answer all questions, one model after the other."""
    for name, upstream in local_upstreams(config).items():
        questions = _ready_to_ask(_read(config, inputs), config)
        fill(name, upstream, questions, desk)


def run_aligners(config: BuildDatasetConfig, inputs: Inputs, desk: Desk) -> None:
    """Let each Aligner correct the answers that are its share, one Aligner after the other."""
    for name, one in inputs.aligners.items():
        answered = _with_answers(_read(config, inputs), config, desk)
        local_teachers.fill(name, one, answered, _shares(config), desk)


def _shares(config: BuildDatasetConfig) -> dict[str, float]:
    return {name: teacher.share for name, teacher in config.teachers.items()}


def _with_answers(rows: Dataset, config: BuildDatasetConfig, desk: Desk) -> Dataset:
    """Columns as they were, ``answer`` filled. Rows: those that a teacher is asked for."""
    rows = _ready_to_ask(rows, config)
    if not config.asks_upstreams:
        return rows
    # Teachers are others than upstreams, and are not told what an answer gives away.
    return _redacted(_answered(rows, config, desk), config)


def _ready_to_ask(rows: Dataset, config: BuildDatasetConfig) -> Dataset:
    """Columns as they were. Rows: the same, in blocks for the asking stages."""
    # What upstreams and teachers are sent leaves the house.
    return _redacted(rows, config).repartition(target_num_rows_per_block=ROWS_PER_BLOCK)


def _read(config: BuildDatasetConfig, inputs: Inputs) -> Dataset:
    """Columns out: WORK_SCHEMA. Rows: one per row of the sources, bad ones dropped by reason."""
    items = [{"name": piece.name, "path": piece.path} for piece in inputs.work]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        functools.partial(read_piece, config=config.model_dump(mode="json")),
        batch_format="pyarrow",
        batch_size=1,
    )
    if inputs.leaks is None:
        return rows
    return rows.map_batches(
        functools.partial(drop_leaks, index=ray.put(inputs.leaks)),
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


def _corrected(rows: Dataset, config: BuildDatasetConfig, inputs: Inputs, desk: Desk) -> Dataset:
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
    for name, one in inputs.aligners.items():
        place = local_teachers.place_of(name, one, _shares(config))
        rows = desk.ask(rows, local_teachers.RecallCorrections, place=place)
    return rows
