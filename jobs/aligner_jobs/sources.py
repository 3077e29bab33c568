"""Sources: what they bring, row by row, with a named reason for every row that is of no use."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from aligner.errors import DataError
from aligner.records import Question, Triple, Turn
from aligner.simworld.questions import training_questions
from aligner.simworld.world import World
from aligner_jobs.config.sources import (
    PreferenceSource,
    QacSource,
    QuestionsSource,
    RevisionsSource,
    SimworldSource,
    Source,
)
from aligner_jobs.json_files import BadRow, Record, locate, read_objects
from aligner_jobs.transcripts import RowProblem, pair

LATER_STEP: Final = "later_step"
"""Set aside because the config asks for it; not a bad row."""


@dataclass(frozen=True, slots=True)
class Item:
    """A usable row and where it stood."""

    where: str
    row: Question | Triple


@dataclass(frozen=True, slots=True)
class Piece:
    """The unit of reading: one file of a source, or a source that is made in memory."""

    name: str
    """Of the source."""
    source: Source
    path: str
    """Of the file; for people where there is none."""


def pieces(name: str, source: Source) -> list[Piece]:
    """What there is to read in the source called ``name``.

    Raises:
        DataError: Nothing.
    """
    if isinstance(source, SimworldSource):
        return [Piece(name, source, "simworld")]
    return [Piece(name, source, path) for path in locate(source.path)]


def read(piece: Piece, *, seed: int, max_bad_share: float) -> Iterator[Item | BadRow]:
    """All rows of ``piece``, in order; ``seed`` is that of a simulated world.

    Raises:
        DataError: It cannot be read, holds no row, or more than ``max_bad_share`` of its rows
            are bad (known, and raised, after the last).
    """
    rows, reasons, first = 0, Counter[str](), None
    for item in _items(piece, seed):
        rows += 1
        if isinstance(item, BadRow) and item.reason != LATER_STEP:
            reasons[item.reason] += 1
            first = first or item
        yield item
    if not rows:
        raise DataError(f"{piece.path}: holds no rows; check the file.")
    if first is not None and (bad := reasons.total()) > max_bad_share * rows:
        raise DataError(
            f"{first.where}: {first.reason}; {bad} of {rows} rows of the file are bad "
            f"({listed(reasons)}), more than max_bad_share={max_bad_share:g} permits; fix the "
            "file, the columns named in the config, or the limit."
        )


def listed(reasons: Mapping[str, int]) -> str:
    """The five most frequent reasons, for a sentence."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common(5))


def _items(piece: Piece, seed: int) -> Iterator[Item | BadRow]:
    if isinstance(piece.source, SimworldSource):
        asked = training_questions(World(seed), piece.source.limit)
        for number, question in enumerate(asked, start=1):
            yield Item(f"{piece.path}, row {number}", question)
        return
    for record in read_objects(piece.path):
        if isinstance(record, BadRow):
            yield record
        else:
            yield _parse(piece, record)


def _parse(piece: Piece, record: Record) -> Item | BadRow:
    try:
        return Item(record.where, _row(piece.name, piece.source, record.value))
    except RowProblem as problem:
        return BadRow(record.where, str(problem))


def _row(name: str, source: Source, record: dict[str, Any]) -> Question | Triple:
    match source:
        case QuestionsSource():
            history = _history(record, source.history_column)
            return Question(_text(record, source.question_column), history)
        case QacSource():
            return _triple(name, source, record)
        case RevisionsSource():
            if source.last_step is not None and _step(record, source) > source.last_step:
                raise RowProblem(LATER_STEP)
            return _triple(name, source, record)
        case PreferenceSource(layout="transcript"):
            chosen = _text(record, source.chosen_column)
            return pair(chosen, _text(record, source.rejected_column), source=name)
        case PreferenceSource():
            return Triple(
                question=_text(record, source.question_column),
                answer=_text(record, source.rejected_column),
                correction=_text(record, source.chosen_column),
                source=name,
                history=_history(record, source.history_column),
            )
        case SimworldSource():
            raise AssertionError("a simulated source has no records")
        case unreachable:
            assert_never(unreachable)


def _triple(name: str, source: QacSource | RevisionsSource, record: dict[str, Any]) -> Triple:
    return Triple(
        question=_text(record, source.question_column),
        answer=_text(record, source.answer_column),
        correction=_text(record, source.correction_column),
        upstream=_text(record, source.upstream_column) if source.upstream_column else "",
        source=name,
        history=_history(record, source.history_column),
    )


def _text(record: dict[str, Any], column: str) -> str:
    value = record.get(column)
    if value is None:
        raise RowProblem(f"missing_{column}")
    if not isinstance(value, str):
        raise RowProblem(f"not_text_{column}")
    try:
        value.encode()
    except UnicodeEncodeError:
        # A lone surrogate: valid in JSON, but no text; Arrow and tokenizers refuse it.
        raise RowProblem("broken_unicode") from None
    return value


def _step(record: dict[str, Any], source: RevisionsSource) -> int:
    step = record.get(source.step_column)
    if type(step) is not int:
        raise RowProblem(f"not_a_number_{source.step_column}")
    return step


def _history(record: dict[str, Any], column: str | None) -> tuple[Turn, ...]:
    if column is None or record.get(column) is None:
        return ()
    turns = record[column]
    if not isinstance(turns, list):
        raise RowProblem(f"not_turns_{column}")
    return tuple(_turn(turn, column) for turn in turns)


def _turn(turn: object, column: str) -> Turn:
    if not isinstance(turn, dict):
        raise RowProblem(f"not_turns_{column}")
    text = _text(turn, "content" if "content" in turn else "text")
    match turn.get("role"):
        case "user" | "assistant" as role:
            return Turn(role, text)
        case _:
            raise RowProblem(f"unknown_role_{column}")
