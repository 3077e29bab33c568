"""The row-wise stages of build-dataset: plain functions from table to table, free of Ray."""

import functools
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from aligner import filters
from aligner.records import Question
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.quality import FilterConfig
from aligner_jobs.json_files import BadRow
from aligner_jobs.sources import Piece, read
from aligner_jobs.tables import (
    Row,
    as_triple,
    bad_row,
    drop,
    history_of,
    on_rows,
    question_row,
    tables_of,
    triple_row,
)

ROWS_PER_BLOCK: Final = 128
"""Small enough that every worker has questions to ask, large enough to be worth a task."""


def read_piece(batch: pa.Table, *, config: dict[str, Any]) -> Iterator[pa.Table]:
    """Columns in: name, path. Columns out: WORK_SCHEMA. Rows: those of the source's file."""
    settings = BuildDatasetConfig.model_validate(config)
    for item in batch.to_pylist():
        piece = Piece(item["name"], settings.sources[item["name"]], item["path"])
        yield from tables_of(_rows_of(piece, settings), size=ROWS_PER_BLOCK)


def _rows_of(piece: Piece, config: BuildDatasetConfig) -> Iterator[Row]:
    per_row = config.rows_per_record(piece.name)
    for item in read(piece, seed=config.seed, max_bad_share=config.max_bad_share):
        if isinstance(item, BadRow):
            yield bad_row(source=piece.name, where=item.where, reason=item.reason, rows=per_row)
        elif isinstance(item.row, Question):
            yield question_row(item.row, source=piece.name, where=item.where, rows=per_row)
        else:
            yield triple_row(item.row, where=item.where)


def teach_simworld(batch: pa.Table, *, seed: int) -> pa.Table:
    """Columns as they were, ``correction`` filled by the simulation's teacher. Rows: the same."""
    world = _world(seed)

    def corrected(row: Row) -> Row:
        if row["correction"] is not None:
            return row
        asked = Question(row["question"], history_of(row))
        return {**row, "correction": correct(world, asked, row["answer"])}

    return on_rows(batch, corrected)


def judge(batch: pa.Table, *, config: dict[str, Any]) -> pa.Table:
    """Columns as they were, ``row_id`` filled. Rows: the same, noise dropped by reason."""
    chosen = _filters(FilterConfig.model_validate(config))

    def judged(row: Row) -> Row:
        triple = as_triple(row)
        reason = filters.first_reason(triple, chosen)
        if reason != filters.KEEP:
            return drop(row, step="filters", reason=reason)
        return {**row, "row_id": triple.row_id}

    return on_rows(batch, judged)


def _filters(config: FilterConfig) -> tuple[filters.Filter, ...]:
    chosen: list[filters.Filter] = [filters.surrogates, filters.blank_text]
    chosen.append(functools.partial(filters.length, max_chars=config.max_chars))
    if config.drop_whitespace_edits:
        chosen.append(filters.whitespace_edit)
    if config.drop_unchanged:
        chosen.append(filters.unchanged)
    if config.min_similarity > 0:
        chosen.append(functools.partial(filters.dissimilar, min_similarity=config.min_similarity))
    return tuple(chosen)


@functools.lru_cache(maxsize=1)
def _world(seed: int) -> World:
    return World(seed)
