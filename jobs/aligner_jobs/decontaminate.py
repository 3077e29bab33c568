"""Training questions that an evaluation asks are dropped before anybody pays for their answers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, assert_never

import pyarrow as pa

from aligner import decontamination
from aligner.decontamination import LeakIndex
from aligner.records import Answered, Question, Triple
from aligner_jobs import dataset_files
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.quality import EvaluationSet, HeldoutQuestions
from aligner_jobs.sources import Item, pieces, read
from aligner_jobs.tables import Row, drop, history_of, on_rows

if TYPE_CHECKING:
    from ray import ObjectRef


def index(config: BuildDatasetConfig) -> LeakIndex | None:
    """Read all evaluation sets; see :func:`aligner.decontamination.index`. None, if there is none.

    Raises:
        DataError: One of them cannot be read, is empty or too bad.
    """
    if config.decontamination is None:
        return None
    sets = {
        name: list(_questions(name, chosen, config))
        for name, chosen in config.decontamination.against.items()
    }
    return decontamination.index(sets, ngram_words=config.decontamination.ngram_words)


def drop_leaks(batch: pa.Table, *, index: "ObjectRef[LeakIndex]") -> pa.Table:
    """Columns as they were. Rows: the same, questions of an evaluation dropped by its name."""
    import ray

    return without_leaks(batch, index=ray.get(index))


def without_leaks(batch: pa.Table, *, index: LeakIndex) -> pa.Table:
    """As :func:`drop_leaks`, with the index at hand."""
    rows = batch.select(["question", "history", "reason"]).to_pylist()
    asked = [Question(row["question"], history_of(row)) for row in rows if row["reason"] is None]
    leaks = index.leaks(asked)
    if not any(leaks):
        return batch
    found = iter(leaks)

    def judged(row: Row) -> Row:
        name = next(found)
        return drop(row, step="decontamination", reason=f"leak_{name}") if name else row

    return on_rows(batch, judged)


def _questions(name: str, chosen: EvaluationSet, config: BuildDatasetConfig) -> Iterator[Question]:
    if isinstance(chosen, HeldoutQuestions):
        yield from dataset_files.heldout_questions(chosen.dataset)
        return
    for piece in pieces(name, chosen):
        for item in read(piece, seed=config.seed, max_bad_share=config.max_bad_share):
            if isinstance(item, Item):
                yield _question(item.row)


def _question(row: Question | Answered | Triple) -> Question:
    match row:
        case Question():
            return row
        case Answered():
            return row.question
        case Triple():
            return Question(row.question, row.history)
        case unreachable:
            assert_never(unreachable)
