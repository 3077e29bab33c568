"""The row-wise stages of build-dataset: plain functions from table to table, free of Ray."""

import functools
from collections.abc import Iterator
from typing import Any, Final, assert_never

import pyarrow as pa
import pyarrow.compute as pc

from aligner import dedup, filters
from aligner.records import Answered, Question, Triple
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.quality import FilterConfig, NearDuplicates
from aligner_jobs.raw_rows import BadRow
from aligner_jobs.sources import Piece, read
from aligner_jobs.tables import (
    Row,
    answered_row,
    as_triple,
    bad_row,
    drop,
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
            continue
        match item.row:
            case Question() as question:
                yield question_row(question, source=piece.name, where=item.where, rows=per_row)
            case Answered() as answered:
                yield answered_row(answered, source=piece.name, where=item.where)
            case Triple() as triple:
                yield triple_row(triple, where=item.where)
            case unreachable:
                assert_never(unreachable)


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


def sketch(batch: pa.Table, *, config: dict[str, Any]) -> pa.Table:
    """Columns as they were, ``sketch`` filled. Rows: the same."""
    from aligner.adapters.minhash import signatures

    settings = NearDuplicates.model_validate(config)
    alive = pc.is_null(batch["reason"]).combine_chunks()
    rows = batch.filter(alive).select(["question", "answer"])
    texts = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    cut = dedup.banding(settings.threshold)
    grams = dedup.shingles(texts, size=settings.shingle_words)
    hashes_NB = dedup.band_hashes(signatures(grams, values=cut.values), cut)
    found = pa.array([hashes_B.tobytes() for hashes_B in hashes_NB], pa.binary())
    column = pc.replace_with_mask(batch["sketch"], alive, found)
    return batch.set_column(batch.schema.get_field_index("sketch"), "sketch", column)


def _filters(config: FilterConfig) -> tuple[filters.Filter, ...]:
    chosen: list[filters.Filter] = [filters.surrogates, filters.blank_text]
    chosen.append(functools.partial(filters.length, max_chars=config.max_chars))
    if config.drop_whitespace_edits:
        chosen.append(filters.whitespace_edit)
    if config.drop_unchanged:
        chosen.append(filters.unchanged)
    if config.drop_template_leaks:
        chosen.append(filters.template_leak)
    if config.drop_echoes:
        chosen.append(filters.echo)
    if config.drop_refused_answers:
        chosen.append(filters.refused_answer)
    if config.drop_new_refusals:
        chosen.append(filters.refused)
    chosen += _size_filters(config)
    if config.languages:
        chosen.append(_language_filter(config))
    return tuple(chosen)


def _size_filters(config: FilterConfig) -> list[filters.Filter]:
    chosen: list[filters.Filter] = []
    if config.min_length_ratio > 0 or config.max_length_ratio is not None:
        chosen.append(
            functools.partial(
                filters.length_ratio,
                smallest=config.min_length_ratio,
                largest=config.max_length_ratio,
            )
        )
    if config.min_similarity > 0 or config.max_similarity < 1:
        chosen.append(
            functools.partial(
                filters.edit_size,
                min_similarity=config.min_similarity,
                max_similarity=config.max_similarity,
            )
        )
    return chosen


def _language_filter(config: FilterConfig) -> filters.Filter:
    from aligner.adapters.language import detect

    return functools.partial(
        filters.language,
        detect=detect,
        allowed=frozenset(config.languages),
        min_chars=config.min_language_chars,
    )
