import json

import pytest
from pydantic import ValidationError

from aligner.feedback import FeedbackRow, SaidTurn
from aligner.records import Answered, Question, Triple, Turn


def said(**changes: object) -> FeedbackRow:
    row = {
        "request_id": "r-1",
        "at_ms": 1,
        "model": "iron+fixer",
        "verdict": "accept",
        "question": "Why?",
        "history": (SaidTurn(role="user", text="Is it?"),),
        "answer": "Dunno.",
        "correction": "Because.",
    }
    return FeedbackRow.model_validate(row | changes)


HISTORY = (Turn("user", "Is it?"),)


def test_an_accepted_correction_is_a_lesson() -> None:
    assert said().lesson(source="f") == Triple(
        "Why?", "Dunno.", "Because.", upstream="iron", source="f", history=HISTORY
    )


def test_an_edit_takes_the_place_of_the_correction() -> None:
    row = said(verdict="edit", edit="Because of wind.")
    lesson = row.lesson(source="f")
    assert isinstance(lesson, Triple)
    assert (lesson.answer, lesson.correction) == ("Dunno.", "Because of wind.")


def test_of_a_rejected_correction_the_answer_is_left() -> None:
    lesson = said(verdict="reject").lesson(source="f")
    assert lesson == Answered("iron", Question("Why?", HISTORY), "Dunno.")


def test_a_bare_aligner_corrected_the_answer_of_an_unknown_upstream() -> None:
    lesson = said(model="fixer").lesson(source="f")
    assert isinstance(lesson, Triple)
    assert lesson.upstream == ""


@pytest.mark.parametrize(("verdict", "edit"), [("edit", None), ("accept", "x"), ("reject", "x")])
def test_an_edit_belongs_to_its_verdict(verdict: str, edit: str | None) -> None:
    with pytest.raises(ValidationError, match="an edit belongs"):
        said(verdict=verdict, edit=edit)


def test_a_row_is_one_line_and_comes_back_the_same() -> None:
    row = said(question="two\nlines\u2028 and \x00", caller="web")
    line = row.line()
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert FeedbackRow.model_validate(json.loads(line)) == row


def test_rows_about_one_request_share_a_key() -> None:
    assert said().key == said(verdict="reject", at_ms=9).key != said(request_id="r-2").key


def test_nobody_can_speak_for_another_caller() -> None:
    assert said(caller="ann").key != said(caller="bob").key
