import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from aligner.errors import DataError
from aligner.records import Question, Triple, Turn
from aligner_jobs.config.sources import Source
from aligner_jobs.raw_rows import BadRow
from aligner_jobs.sources import Item, pieces, read

SOURCE: TypeAdapter[Source] = TypeAdapter(Source)


def source(kind: str, path: Path | str, **settings: object) -> Source:
    return SOURCE.validate_python({"kind": kind, "path": str(path), **settings})


def items(of: Source, *, max_bad_share: float = 1.0) -> list[Item | BadRow]:
    return [
        item
        for piece in pieces("name", of)
        for item in read(piece, seed=0, max_bad_share=max_bad_share)
    ]


def rows(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_questions_come_with_their_history_in_either_spelling(tmp_path: Path) -> None:
    said = [{"role": "user", "text": "Hi."}, {"role": "assistant", "content": "Hello."}]
    file = rows(tmp_path / "q.jsonl", {"ask": "Why?", "before": said}, {"ask": "How?"})
    found = items(source("questions", file, question_column="ask", history_column="before"))
    history = (Turn("user", "Hi."), Turn("assistant", "Hello."))
    assert [item.row for item in found if isinstance(item, Item)] == [
        Question("Why?", history),
        Question("How?"),
    ]


def test_triples_map_their_columns(tmp_path: Path) -> None:
    file = rows(tmp_path / "t.jsonl", {"q": "1", "a": "2", "c": "3", "by": "model"})
    columns = {"question_column": "q", "answer_column": "a", "correction_column": "c"}
    (item,) = items(source("qac", file, upstream_column="by", **columns))
    assert isinstance(item, Item)
    assert item.row == Triple("1", "2", "3", upstream="model", source="name")


def test_later_steps_are_left_out_by_name_and_are_not_bad(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a", "correction": "c"}
    file = rows(tmp_path / "r.jsonl", *({**row, "step": step} for step in (1, 2, 3)))
    found = items(source("revisions", file, last_step=1), max_bad_share=0.0)
    assert [getattr(item, "reason", "kept") for item in found] == [
        "kept",
        "later_step",
        "later_step",
    ]


def test_preference_columns_turn_the_rejected_reply_into_the_answer(tmp_path: Path) -> None:
    file = rows(tmp_path / "p.jsonl", {"question": "q", "chosen": "good", "rejected": "bad"})
    (item,) = items(source("preference", file, layout="columns"))
    assert isinstance(item, Item)
    assert item.row == Triple("q", "bad", "good", source="name")


GOOD: dict[str, Any] = {"question": "q", "answer": "a", "correction": "c"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "q", "answer": "a"}, "missing_correction"),
        ({**GOOD, "answer": None}, "missing_answer"),
        ({**GOOD, "question": 7}, "not_text_question"),
        ({**GOOD, "answer": "\ud800"}, "broken_unicode"),
        ({**GOOD, "history": "x"}, "not_turns_history"),
        ({**GOOD, "history": ["x"]}, "not_turns_history"),
        ({**GOOD, "history": [{"role": "system", "text": "x"}]}, "unknown_role_history"),
        ({**GOOD, "history": [{"role": "user"}]}, "missing_text"),
        ([GOOD], "not_an_object"),
    ],
)
def test_a_bad_row_is_set_aside_by_reason(tmp_path: Path, record: object, reason: str) -> None:
    file = rows(tmp_path / "t.jsonl", GOOD, record)
    good, bad = items(source("qac", file, history_column="history"))
    assert isinstance(good, Item)
    assert bad == BadRow(f"{file}:2", reason)


def test_too_many_bad_rows_name_file_line_count_and_limit(tmp_path: Path) -> None:
    file = rows(tmp_path / "t.jsonl", GOOD, {}, GOOD, 7)
    with pytest.raises(DataError) as caught:
        items(source("qac", file), max_bad_share=0.4)
    sentence = str(caught.value)
    for part in (f"{file}:2", "missing_question", "2 of 4", "max_bad_share=0.4"):
        assert part in sentence
    assert len(items(source("qac", file), max_bad_share=0.5)) == 4


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    file = rows(tmp_path / "t.jsonl")
    with pytest.raises(DataError, match=r"t\.jsonl: holds no rows"):
        items(source("qac", file))


def test_the_simulated_world_brings_as_many_questions_as_asked() -> None:
    found = items(SOURCE.validate_python({"kind": "simworld", "limit": 50}))
    assert len({item.row for item in found if isinstance(item, Item)}) == 50


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.none() | st.integers() | st.text() for name in ("chosen", "rejected")
            },
        ),
        min_size=1,
    )
)
def test_every_row_is_accounted_for_whatever_it_holds(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    file = rows(tmp_path_factory.mktemp("rows") / "p.jsonl", *records)
    assert len(items(source("preference", file, layout="transcript"))) == len(records)


# --- real data ------------------------------------------------------------------------------


def reasons(found: list[Item | BadRow]) -> Counter[str]:
    return Counter(item.reason if isinstance(item, BadRow) else "kept" for item in found)


def test_the_odd_rows_of_hh_are_set_aside_and_no_other(shared_data: Path) -> None:
    found = items(
        source("preference", shared_data / "hh_harmless_test.jsonl.gz", layout="transcript")
    )
    assert reasons(found) == {"kept": 2299, "role_repeated": 9, "empty_reply": 4}
    turns = [
        len(item.row.history)
        for item in found
        if isinstance(item, Item) and isinstance(item.row, Triple)
    ]
    assert sum(not history for history in turns) == 658
    assert sum(history > 0 for history in turns) == 1641


@pytest.mark.parametrize(
    ("file", "settings", "kept"),
    [
        ("selfee_revisions", {"kind": "revisions", "upstream_column": "model"}, 469),
        ("cai_revisions", {"kind": "revisions"}, 264),
        ("hhh_alignment_221", {"kind": "preference", "layout": "columns"}, 221),
        ("shepherd_critiques", {"kind": "qac"}, 1317),
        ("aligner2b_corrections", {"kind": "qac", "upstream_column": "upstream"}, 1689),
    ],
)
def test_real_sets_are_read_whole(
    shared_data: Path, file: str, settings: dict[str, str], kept: int
) -> None:
    found = items(source(path=shared_data / f"{file}.jsonl.gz", **settings))
    assert reasons(found) == {"kept": kept}
