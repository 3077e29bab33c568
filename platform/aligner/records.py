"""Rows: what a question, an answer and a correction are, in memory and as Parquet columns."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

from aligner.errors import DataError

Role = Literal["user", "assistant"]
Split = Literal["train", "heldout"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier message of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, with the conversation before it (oldest turn first)."""

    question: str
    history: tuple[Turn, ...] = ()

    @property
    def question_id(self) -> str:
        """16 hex digits of the content; the same question has the same id in every run."""
        return content_id([[turn.role, turn.text] for turn in self.history], self.question)


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and what an upstream replied."""

    upstream: str
    """Name of the model that answered; empty where a source does not say."""
    question: Question
    answer: str


@dataclass(frozen=True, slots=True)
class Triple:
    """A question, an upstream's answer and the corrected answer."""

    question: str
    answer: str
    correction: str
    upstream: str = ""
    """Name of the model that answered; empty where a source does not say."""
    source: str = ""
    """Where the row came from: a dataset's name."""
    history: tuple[Turn, ...] = ()
    teacher: str = ""
    """Name of the teacher that corrected; empty where the source brought the correction."""

    @property
    def question_id(self) -> str:
        """See :attr:`Question.question_id`; splits are drawn by it."""
        return Question(self.question, self.history).question_id

    @property
    def row_id(self) -> str:
        """16 hex digits of question, answer and correction; exact duplicates share it."""
        return content_id(self.question_id, self.answer, self.correction)

    @property
    def is_identity(self) -> bool:
        """Whether the correction is the answer, unchanged."""
        return self.correction == self.answer


TURNS_TYPE = pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))

TRIPLE_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("correction", pa.string()),
        ("upstream", pa.string()),
        ("teacher", pa.string()),
        ("source", pa.string()),
        ("history", TURNS_TYPE),
    ]
)
"""Columns of a dataset artefact's ``train/``, ``warmup/`` and ``heldout/`` Parquet files."""


def content_id(*parts: object) -> str:
    """16 hex digits of a SHA-256 over ``parts`` in canonical JSON."""
    canonical = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def to_columns(row: Triple) -> dict[str, Any]:
    """``row`` as one record of :data:`TRIPLE_SCHEMA`."""
    return {
        "row_id": row.row_id,
        "question_id": row.question_id,
        "question": row.question,
        "answer": row.answer,
        "correction": row.correction,
        "upstream": row.upstream,
        "teacher": row.teacher,
        "source": row.source,
        "history": [{"role": turn.role, "text": turn.text} for turn in row.history],
    }


def from_columns(record: dict[str, Any]) -> Triple:
    """The inverse of :func:`to_columns`; ids are derived again, not read.

    Raises:
        DataError: A column is missing, is not text, or a turn has an unknown role.
    """
    return Triple(
        question=text_of(record, "question"),
        answer=text_of(record, "answer"),
        correction=text_of(record, "correction"),
        upstream=str(record.get("upstream") or ""),
        teacher=str(record.get("teacher") or ""),
        source=str(record.get("source") or ""),
        history=turns_of(record.get("history")),
    )


def text_of(record: dict[str, Any], column: str) -> str:
    """The text in ``column``.

    Raises:
        DataError: It is missing or is not a string; the message holds no row content.
    """
    if column not in record or record[column] is None:
        raise DataError(f"field {column!r} is missing")
    value = record[column]
    if not isinstance(value, str):
        raise DataError(f"field {column!r} is {type(value).__name__}, expected text")
    return value


def turns_of(value: object) -> tuple[Turn, ...]:
    """A history from a list of ``{role, text}`` (``None`` and an empty list are no history).

    Raises:
        DataError: It has another shape or an unknown role.
    """
    if value is None:
        return ()
    turns = []
    for item in list(value) if hasattr(value, "__iter__") else [value]:
        if not isinstance(item, dict) or item.get("role") not in get_args(Role):
            raise DataError("field 'history' must be a list of {role: user|assistant, text}")
        turns.append(Turn(role=item["role"], text=text_of(item, "text")))
    return tuple(turns)
