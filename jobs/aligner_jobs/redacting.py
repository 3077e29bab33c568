"""Personal data out of the rows, and the count of what was taken out."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, assert_never

import pyarrow as pa
import pyarrow.compute as pc

from aligner.adapters.check_digits import card_numbers, ibans, social_security_numbers
from aligner.adapters.phone_numbers import phone_numbers
from aligner.records import Triple
from aligner.redaction import Entity, Find, emails, ip_addresses, redact
from aligner_jobs.config.quality import Pii
from aligner_jobs.tables import Row, drop, history_of, on_rows


def redact_rows(batch: pa.Table, *, pii: Mapping[str, Any]) -> pa.Table:
    """Columns as they were, texts and ``question_id`` without personal data, ``redacted`` longer.

    Rows: the same, finished or not; those with personal data dropped where they are to be.
    """
    settings = Pii.model_validate(pii)
    find = _finder(settings)

    def redacted(row: Row) -> Row:
        answer, correction = row["answer"], row["correction"]
        texts = (row["question"], answer or "", correction or "")
        found = redact(Triple(*texts, history=history_of(row)), find)
        if not found.entities:
            return row
        match settings.action:
            case "drop":
                return drop(row, step="filters", reason="pii")
            case "redact":
                return {
                    **row,
                    "question_id": found.row.question_id,
                    "question": found.row.question,
                    "answer": None if answer is None else found.row.answer,
                    "correction": None if correction is None else found.row.correction,
                    "history": [{"role": t.role, "text": t.text} for t in found.row.history],
                    "redacted": [*row["redacted"], *found.entities],
                }
            case unreachable:
                assert_never(unreachable)

    return on_rows(batch, redacted)


class RedactionCount:
    """Counts over the rows of a dataset that stay, on their way to somebody else who looks."""

    def __init__(self, then: Callable[[pa.Table], None]) -> None:
        self._then = then
        self._rows = 0
        self._places = Counter[str]()

    def look(self, table: pa.Table) -> None:
        """Count the rows of ``table`` that are not dropped."""
        self._then(table)
        redacted = table.filter(pc.is_null(table["reason"]))["redacted"].combine_chunks()
        self._rows += pc.sum(pc.greater(pc.list_value_length(redacted), 0)).as_py() or 0
        self._places.update(redacted.flatten().to_pylist())

    def facts(self) -> dict[str, Any]:
        """Rows with something redacted, and the places by kind."""
        return {"rows": self._rows, "places": dict(sorted(self._places.items()))}


def _finder(settings: Pii) -> Find:
    """What finds the personal data that ``settings`` name."""
    by_entity: dict[Entity, Callable[[str], list[str]]] = {
        "CREDIT_CARD": card_numbers,
        "EMAIL_ADDRESS": emails,
        "IBAN_CODE": ibans,
        "IP_ADDRESS": ip_addresses,
        "PHONE_NUMBER": functools.partial(phone_numbers, region=settings.phone_region),
        "US_SSN": social_security_numbers,
    }
    # Phone numbers first: digits that are something else as well count as that.
    wanted = sorted(settings.entities, key=lambda entity: entity != "PHONE_NUMBER")

    def find(text: str) -> dict[str, Entity]:
        return {piece: entity for entity in wanted for piece in by_entity[entity](text)}

    return find
