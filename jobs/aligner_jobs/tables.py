"""Working rows: a triple in the making, which carries its own fate through all stages.

A row that is dropped stays in the table with ``step`` and ``reason`` set, and later stages pass it
on untouched: so the funnel is counted once, at the end, and accounts for every row.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aligner.manifest import FunnelStep
from aligner.records import (
    TRIPLE_SCHEMA,
    Answered,
    Question,
    Triple,
    Turn,
    content_id,
    from_columns,
    to_columns,
)

Step = Literal[
    "read", "decontamination", "answers", "corrections", "filters", "judge", "duplicates", "mix"
]
STEPS: Final[tuple[Step, ...]] = get_args(Step)

WORK_SCHEMA: Final = pa.schema(
    [
        *TRIPLE_SCHEMA,
        ("where", pa.string()),
        ("rows", pa.int64()),
        ("step", pa.string()),
        ("reason", pa.string()),
        ("sketch", pa.binary()),
        ("redacted", pa.list_(pa.string())),
    ]
)
"""Columns between stages. ``answer`` and ``correction`` are null until a stage fills them;
``rows`` is how many rows-to-be (question x upstream x sample) this one stands for, ``sketch``
what near-duplicates are found by, where they are wanted, ``redacted`` the kinds of personal data
that were taken out of it, one for each place."""

SET_ASIDE_SCHEMA: Final = pa.schema(
    [
        ("step", pa.string()),
        ("reason", pa.string()),
        ("where", pa.string()),
        ("source", pa.string()),
        ("upstream", pa.string()),
        ("teacher", pa.string()),
        ("question_id", pa.string()),
        ("rows", pa.int64()),
    ]
)

SORT_KEY: Final = ["row_id", "upstream", "source", "where"]
"""Makes equal rows neighbours, and which of them is kept the same in every run."""

Row = dict[str, Any]


def question_row(question: Question, *, source: str, where: str, rows: int) -> Row:
    """A row of a question that nobody has answered yet; it stands for ``rows`` rows."""
    triple = Triple(question.question, "", "", source=source, history=question.history)
    unfinished = {"row_id": "", "answer": None, "correction": None}
    return {**_working(triple, where=where, rows=rows), **unfinished}


def answered_row(answered: Answered, *, source: str, where: str) -> Row:
    """A row that is corrected in a later stage."""
    question, upstream = answered.question, answered.upstream
    triple = Triple(
        question.question,
        answered.answer,
        "",
        upstream=upstream,
        source=source,
        history=question.history,
    )
    return {**_working(triple, where=where, rows=1), "row_id": "", "correction": None}


def triple_row(triple: Triple, *, where: str) -> Row:
    """A row that a source brought complete."""
    return _working(triple, where=where, rows=1)


def bad_row(*, source: str, where: str, reason: str, rows: int) -> Row:
    """A row that a source could not use."""
    empty = dict.fromkeys(("question", "answer", "correction"))
    row = {"question_id": "", "upstream": "", "teacher": "", "source": source, "history": []}
    return drop({**empty, **row, "where": where, "rows": rows}, step="read", reason=reason)


def drop(row: Row, *, step: Step, reason: str) -> Row:
    """``row`` with its fate; its texts go no further."""
    fate = {"step": step, "reason": reason}
    # The id only makes the order of these rows the same in every run.
    row_id = content_id(step, reason, row["where"], row["source"], row["upstream"])
    return {**row, **fate, "row_id": row_id, "answer": None, "correction": None, "sketch": None}


def history_of(row: Row) -> tuple[Turn, ...]:
    """The earlier turns of ``row``."""
    return tuple(Turn(turn["role"], turn["text"]) for turn in row["history"])


def on_rows(table: pa.Table, change: Callable[[Row], Row]) -> pa.Table:
    """``table`` with every row that is not dropped changed."""
    rows = (change(row) if row["reason"] is None else row for row in table.to_pylist())
    return pa.Table.from_pylist(list(rows), schema=WORK_SCHEMA)


def as_triple(row: Row) -> Triple:
    """A complete row as a triple."""
    return from_columns(row)


def tables_of(rows: Iterable[Row], *, size: int) -> Iterator[pa.Table]:
    """Tables of up to ``size`` rows."""
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield pa.Table.from_pylist(batch, schema=WORK_SCHEMA)


def mark_duplicates(table: pa.Table, *, previous_id: str | None) -> pa.Table:
    """``table``, sorted by :data:`SORT_KEY`, with all but the first of equal rows dropped.

    ``previous_id`` is the last row id of the table before this one.
    """
    ids = table["row_id"].combine_chunks()
    shifted = pa.concat_arrays([pa.array([previous_id], pa.string()), ids[:-1]])
    equal = pc.fill_null(pc.equal(ids, shifted), False)
    duplicate = pc.and_(equal, pc.is_null(table["reason"]))
    return mark(table, duplicate, step="duplicates", reason="duplicate")


def mark(table: pa.Table, where: pa.BooleanArray, *, step: Step, reason: str) -> pa.Table:
    """``table`` with the rows ``where`` it is true dropped; none of them was dropped before."""
    if not pc.any(where).as_py():
        return table
    for name, value in (("step", step), ("reason", reason)):
        column = pc.if_else(where, pa.scalar(value, pa.string()), table[name])
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


@dataclass(slots=True)
class Tally:
    """How many rows met which fate, by source and upstream."""

    counts: Counter[tuple[str, str, str | None, str | None]] = field(default_factory=Counter)
    """By source, upstream, step and reason; step and reason are ``None`` for rows kept."""

    def add(self, table: pa.Table) -> None:
        """Count ``table``."""
        keys = ["source", "upstream", "step", "reason"]
        for row in table.group_by(keys).aggregate([("rows", "sum")]).to_pylist():
            self.counts[tuple(row[key] for key in keys)] += row["rows_sum"]

    def total(self, source: str | None = None) -> int:
        """Rows of one source or all, dropped or not."""
        return sum(rows for (name, *_), rows in self.counts.items() if source in (None, name))

    def dropped(
        self, step: Step, *, source: str | None = None, upstream: str | None = None
    ) -> dict[str, int]:
        """Reason to rows that ``step`` dropped, of one source or upstream or all; largest first."""
        found = Counter[str]()
        for (of, by, at, reason), rows in self.counts.items():
            if at == step and reason and source in (None, of) and upstream in (None, by):
                found[reason] += rows
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def reached(self, step: Step, *, upstream: str | None = None) -> int:
        """Rows, of one upstream or all, that no step before ``step`` dropped."""
        later = (None, *STEPS[STEPS.index(step) :])
        return sum(
            rows
            for (_, by, at, _), rows in self.counts.items()
            if at in later and upstream in (None, by)
        )

    def funnel(self, steps: Sequence[Step]) -> tuple[FunnelStep, ...]:
        """What each of ``steps`` took in, dropped and let through."""
        left, result = self.total(), []
        for step in steps:
            dropped = self.dropped(step)
            out = left - sum(dropped.values())
            result.append(FunnelStep(step=step, rows_in=left, rows_out=out, dropped=dropped))
            left = out
        return tuple(result)


class PartWriter:
    """Writes one folder of Parquet files; the same rows give the same bytes.

    There is at least one file, so that an empty split is a folder like any other.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, rows_per_file: int = 50_000) -> None:
        folder.mkdir(parents=True)
        self._folder, self._schema, self._rows_per_file = folder, schema, rows_per_file
        self._waiting: list[pa.Table] = []
        self._files = 0
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Append ``table``; columns that the schema does not name are left out."""
        if not table.num_rows:
            return
        self._waiting.append(table.select(self._schema.names).cast(self._schema))
        self.rows += table.num_rows
        while sum(waiting.num_rows for waiting in self._waiting) >= self._rows_per_file:
            self._flush()

    def close(self) -> list[Path]:
        """Write what is left; the paths of all files."""
        while self._waiting or not self._files:
            self._flush()
        return sorted(self._folder.iterdir())

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        part, rest = table.slice(0, self._rows_per_file), table.slice(self._rows_per_file)
        path = self._folder / f"part-{self._files:05d}.parquet"
        # One chunk per column: where chunks end must not show in the bytes.
        pq.write_table(part.combine_chunks(), path, compression="zstd")
        self._files += 1
        self._waiting = [rest] if rest.num_rows else []


def _working(triple: Triple, *, where: str, rows: int) -> Row:
    fate = {"step": None, "reason": None, "sketch": None}
    return {**to_columns(triple), "where": where, "rows": rows, **fate, "redacted": []}
