import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.errors import DataError
from aligner.records import Question, Triple, Turn, from_columns, to_columns, turns_of

TEXT = st.text(max_size=20)
TURNS = st.lists(st.builds(Turn, role=st.sampled_from(["user", "assistant"]), text=TEXT)).map(tuple)
TRIPLES = st.builds(
    Triple, question=TEXT, answer=TEXT, correction=TEXT, upstream=TEXT, source=TEXT, history=TURNS
)


@given(TRIPLES)
def test_a_row_survives_its_columns(row: Triple) -> None:
    assert from_columns(to_columns(row)) == row


@given(TRIPLES)
def test_the_row_id_ignores_where_a_row_came_from(row: Triple) -> None:
    other = Triple(row.question, row.answer, row.correction, history=row.history)
    assert other.row_id == row.row_id
    assert other.question_id == Question(row.question, row.history).question_id


def test_history_is_part_of_a_question() -> None:
    assert Question("q").question_id != Question("q", (Turn("user", "before"),)).question_id


def test_ids_stay_what_they_were() -> None:
    assert Question("What?").question_id == "db0e35e97c826597"
    assert Triple("What?", "This.", "That.").row_id == "0adbc79ef4b74e8e"


@pytest.mark.parametrize("record", [{}, {"question": None}, {"question": 3}])
def test_a_missing_or_foreign_field_is_named(record: dict[str, object]) -> None:
    with pytest.raises(DataError, match="field 'question'"):
        from_columns(record)


@pytest.mark.parametrize(
    "value", ["text", [1], [{"role": "system", "text": "x"}], [{"role": "user"}]]
)
def test_a_malformed_history_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="field"):
        turns_of(value)
