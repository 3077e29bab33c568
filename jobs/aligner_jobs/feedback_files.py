"""What users said of served corrections, read from the files of a gateway's replicas.

A request may have been spoken of several times, in several files: files are read twice, first for
what is the latest about each request, then for the rows. In between only hashes are held.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from aligner.feedback import FeedbackRow
from aligner.records import Answered, Triple
from aligner_jobs.config.sources import FeedbackSource
from aligner_jobs.json_files import BROKEN_JSON
from aligner_jobs.raw_rows import BadRow, Record
from aligner_jobs.source_files import locate, read_records

REJECTED: Final = "rejected"
"""Nobody said what would have been better."""
SUPERSEDED: Final = "superseded"
"""Something later was said of the same request."""
UNFINISHED: Final = "unfinished"
"""The replica died while it wrote the row; its client was never told that it is kept."""
NOT_BAD: Final = frozenset({REJECTED, SUPERSEDED, UNFINISHED})

Place = tuple[int, int]
"""Number of a file, number of a row in it."""


@dataclass(frozen=True, slots=True)
class _Said:
    where: str
    place: Place
    row: FeedbackRow


def read_feedback(
    name: str, source: FeedbackSource
) -> Iterator[tuple[str, Triple | Answered] | BadRow]:
    """All rows with where they stood, files in the order of their names.

    Raises:
        DataError: There is no file, or one cannot be read to its end.
    """
    files = locate(source.path, source.format)
    latest = _latest(files, source)
    for said in _all(files, source):
        if isinstance(said, BadRow):
            yield said
        elif (last := latest.get(said.row.key)) is None:
            # Spoken of a moment ago, by a gateway that runs: the next job has it.
            continue
        elif last[1] != said.place:
            yield BadRow(said.where, SUPERSEDED)
        elif said.row.verdict == "reject" and source.rejected == "set_aside":
            yield BadRow(said.where, REJECTED)
        else:
            yield said.where, said.row.lesson(source=name)


def _latest(files: Sequence[str], source: FeedbackSource) -> dict[bytes, tuple[int, Place]]:
    """Key of a request -> when it was last spoken of, and where; of equal times the last row."""
    latest: dict[bytes, tuple[int, Place]] = {}
    for said in _all(files, source):
        if isinstance(said, _Said):
            now = (said.row.at_ms, said.place)
            latest[said.row.key] = max(latest.get(said.row.key, now), now)
    return latest


def _all(files: Sequence[str], source: FeedbackSource) -> Iterator[_Said | BadRow]:
    for number, file in enumerate(files):
        broken: BadRow | None = None
        for ordinal, record in enumerate(read_records(file, source.format)):
            if broken is not None:
                yield broken
            broken = record if isinstance(record, BadRow) else None
            if isinstance(record, Record):
                yield _parsed(record, (number, ordinal))
        if broken is not None:
            torn = broken.reason == BROKEN_JSON
            yield BadRow(broken.where, UNFINISHED) if torn else broken


def _parsed(record: Record, place: Place) -> _Said | BadRow:
    try:
        return _Said(record.where, place, FeedbackRow.model_validate(record.value))
    except ValidationError:
        # Its message repeats the row.
        return BadRow(record.where, "not_feedback")
