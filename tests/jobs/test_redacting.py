import pyarrow as pa
import pytest

from aligner.records import Question, Triple, Turn
from aligner.redaction import ENTITIES
from aligner_jobs.config.quality import Pii
from aligner_jobs.redacting import RedactionCount, redact_rows
from aligner_jobs.tables import WORK_SCHEMA, Row, drop, question_row, triple_row

FULL = (
    "jo@example.org, (212) 555-0199, 4111 1111 1111 1111, DE89370400440532013000, 8.8.8.8, "
    "536-90-4399"
)
MARKED = "<EMAIL_ADDRESS>, <PHONE_NUMBER>, <CREDIT_CARD>, <IBAN_CODE>, <IP_ADDRESS>, <US_SSN>"


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=WORK_SCHEMA)


def redacted(*rows: Row, **settings: object) -> list[Row]:
    pii = Pii.model_validate(settings).model_dump(mode="json")
    found: list[Row] = redact_rows(table(*rows), pii=pii).to_pylist()
    return found


def test_every_kind_is_marked_in_every_text() -> None:
    row = triple_row(Triple(FULL, FULL, FULL, history=(Turn("user", FULL),)), where="f:1")
    (clean,) = redacted(row)
    assert [clean[name] for name in ("question", "answer", "correction")] == [MARKED] * 3
    assert clean["history"] == [{"role": "user", "text": MARKED}]
    assert set(clean["redacted"]) == set(ENTITIES)
    assert clean["question_id"] == Question(MARKED, (Turn("user", MARKED),)).question_id


def test_a_question_is_cleaned_before_anybody_is_asked() -> None:
    row = question_row(Question("Who is jo@example.org?"), source="s", where="f:1", rows=3)
    (clean,) = redacted(row)
    assert clean["question"] == "Who is <EMAIL_ADDRESS>?"
    assert (clean["answer"], clean["correction"], clean["rows"]) == (None, None, 3)
    # The second time there is nothing left to find, and nothing is counted twice.
    assert redacted(clean) == [clean]


def test_only_what_was_asked_for_is_looked_for() -> None:
    row = triple_row(Triple("8.8.8.8", "jo@example.org", "c"), where="f:1")
    (clean,) = redacted(row, entities=["IP_ADDRESS"])
    assert (clean["question"], clean["answer"]) == ("<IP_ADDRESS>", "jo@example.org")


def test_dropping_is_the_other_choice() -> None:
    bad = triple_row(Triple("q", "jo@example.org", "c"), where="f:1")
    good = triple_row(Triple("q", "a", "c"), where="f:2")
    first, second = redacted(bad, good, action="drop")
    assert (first["step"], first["reason"], first["answer"]) == ("filters", "pii", None)
    assert second == good


@pytest.mark.parametrize("action", ["redact", "drop"])
def test_rows_without_personal_data_and_dropped_ones_pass(action: str) -> None:
    row = triple_row(Triple("Is 3.14 pi?", "In 1998, 20,000 people.", "c"), where="f:1")
    lost = drop(
        triple_row(Triple("jo@example.org", "a", "c"), where="f:2"), step="read", reason="x"
    )
    assert redacted(row, lost, action=action) == [row, lost]


def test_what_stays_in_the_dataset_is_counted() -> None:
    row = triple_row(Triple("jo@example.org", "jo@example.org 8.8.8.8", "c"), where="f:1")
    plain = triple_row(Triple("q", "a", "c"), where="f:2")
    clean = redacted(row, plain)
    lost = drop(clean[0], step="filters", reason="x")
    seen: list[pa.Table] = []
    count = RedactionCount(then=seen.append)
    count.look(table(*clean, lost))
    count.look(table(lost))
    assert [each.num_rows for each in seen] == [3, 1]
    assert count.facts() == {"rows": 1, "places": {"EMAIL_ADDRESS": 2, "IP_ADDRESS": 1}}
