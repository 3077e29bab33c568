"""Sources: what they bring, row by row, with a named reason for every row that is of no use."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

from aligner.errors import DataError
from aligner.records import Answered, Question, Triple, Turn
from aligner.simworld.questions import training_questions
from aligner.simworld.world import World
from aligner_jobs import conversations, transcripts
from aligner_jobs.config.sources import (
    AnswersSource,
    ConversationsSource,
    FeedbackSource,
    PreferenceSource,
    QacSource,
    QuestionsSource,
    RevisionsSource,
    SimworldSource,
    Source,
)
from aligner_jobs.feedback_files import NOT_BAD, read_feedback
from aligner_jobs.raw_rows import BadRow, Record, RowProblem
from aligner_jobs.source_files import locate, read_records

LATER_STEP: Final = "later_step"
"""Set aside because the config asks for it; not a bad row."""

_NOT_BAD: Final = NOT_BAD | {LATER_STEP}


@dataclass(frozen=True, slots=True)
class Item:
    """A usable row and where it stood."""

    where: str
    row: Question | Answered | Triple


@dataclass(frozen=True, slots=True)
class Piece:
    """The unit of reading: one file of a source, or a source that is made in memory or whose
    files must be seen together."""

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
    if isinstance(source, FeedbackSource):
        return [Piece(name, source, source.path)]
    return [Piece(name, source, path) for path in locate(source.path, source.format)]


def read(piece: Piece, *, seed: int, max_bad_share: float) -> Iterator[Item | BadRow]:
    """All rows of ``piece``, in order; ``seed`` is that of a simulated world.

    Raises:
        DataError: It cannot be read, holds no row, or more than ``max_bad_share`` of its rows
            are bad (known, and raised, after the last).
    """
    rows, reasons, first = 0, Counter[str](), None
    for item in _items(piece, seed):
        rows += 1
        if isinstance(item, BadRow) and item.reason not in _NOT_BAD:
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
    if isinstance(piece.source, FeedbackSource):
        for said in read_feedback(piece.name, piece.source):
            yield said if isinstance(said, BadRow) else Item(*said)
        return
    for record in read_records(piece.path, piece.source.format):
        if isinstance(record, BadRow):
            yield record
        else:
            yield from _parse(piece, record)


def _parse(piece: Piece, record: Record) -> Iterator[Item | BadRow]:
    """One row, or all that a conversation holds."""
    try:
        if isinstance(piece.source, ConversationsSource):
            yield from _asked(piece.source, record)
        else:
            yield Item(record.where, _row(piece.name, piece.source, record.value))
    except RowProblem as problem:
        yield BadRow(record.where, str(problem))


def _asked(source: ConversationsSource, record: Record) -> list[Item]:
    messages = _messages(record.value, source.conversation_column)
    turns = conversations.read_turns(messages, source.messages)
    asked = list(conversations.questions(turns))
    if source.turns == "last":
        return [Item(record.where, asked[-1][1])]
    return [Item(f"{record.where}, turn {number}", question) for number, question in asked]


def _row(name: str, source: Source, record: dict[str, Any]) -> Question | Answered | Triple:
    match source:
        case QuestionsSource():
            return _question(source, record)
        case AnswersSource():
            upstream = _text(record, source.upstream_column) if source.upstream_column else ""
            return Answered(
                upstream, _question(source, record), _text(record, source.answer_column)
            )
        case QacSource():
            return _triple(name, source, record)
        case RevisionsSource():
            if source.last_step is not None and _step(record, source) > source.last_step:
                raise RowProblem(LATER_STEP)
            return _triple(name, source, record)
        case PreferenceSource():
            return _pair(name, source, record)
        case SimworldSource() | ConversationsSource() | FeedbackSource():
            raise AssertionError("not read row by row")
        case unreachable:
            assert_never(unreachable)


def _question(source: QuestionsSource | AnswersSource, record: dict[str, Any]) -> Question:
    """A question that somebody will be paid to see, so an empty one ends here."""
    text = _joined(record, source.question_column)
    if not text.strip():
        raise RowProblem("empty_question")
    return Question(text, _history(record, source.history_column))


def _pair(name: str, source: PreferenceSource, record: dict[str, Any]) -> Triple:
    chosen, rejected = source.chosen_column, source.rejected_column
    match source.layout:
        case "columns":
            return Triple(
                question=_joined(record, source.question_column),
                answer=_text(record, rejected),
                correction=_text(record, chosen),
                source=name,
                history=_history(record, source.history_column),
            )
        case "transcript":
            return conversations.pair(
                transcripts.parse(_text(record, chosen)),
                transcripts.parse(_text(record, rejected)),
                source=name,
            )
        case "messages":
            before = source.conversation_column
            said = _messages(record, before) if before else []
            good, bad = _messages(record, chosen), _messages(record, rejected)
            return conversations.pair(
                conversations.read_turns([*said, *good], source.messages),
                conversations.read_turns([*said, *bad], source.messages),
                source=name,
            )
        case unreachable:
            assert_never(unreachable)


def _triple(name: str, source: QacSource | RevisionsSource, record: dict[str, Any]) -> Triple:
    return Triple(
        question=_joined(record, source.question_column),
        answer=_text(record, source.answer_column),
        correction=_text(record, source.correction_column),
        upstream=_text(record, source.upstream_column) if source.upstream_column else "",
        source=name,
        history=_history(record, source.history_column),
    )


def _column(record: dict[str, Any], column: str) -> Any:
    if (value := record.get(column)) is None:
        raise RowProblem(f"missing_{column}")
    return value


def _text(record: dict[str, Any], column: str) -> str:
    value = _column(record, column)
    if not isinstance(value, str):
        raise RowProblem(f"not_text_{column}")
    try:
        value.encode()
    except UnicodeEncodeError:
        # A lone surrogate: valid in JSON, but no text; Arrow and tokenizers refuse it.
        raise RowProblem("broken_unicode") from None
    return value


def _joined(record: dict[str, Any], columns: Sequence[str]) -> str:
    """The texts of ``columns`` with a blank line between; only the first must be there."""
    first, *others = columns
    texts = [_text(record, first)]
    texts += [_text(record, column) for column in others if record.get(column) is not None]
    return "\n\n".join(text for text in texts if text.strip()) if others else texts[0]


def _step(record: dict[str, Any], source: RevisionsSource) -> int:
    step = record.get(source.step_column)
    if isinstance(step, str) and step.isdecimal():
        # In CSV everything is a text.
        return int(step)
    if type(step) is not int:
        raise RowProblem(f"not_a_number_{source.step_column}")
    return step


def _messages(record: dict[str, Any], column: str) -> list[Any]:
    value = _column(record, column)
    return value if isinstance(value, list) else [value]


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
