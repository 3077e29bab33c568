import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from aligner.config import load
from aligner.errors import DataError
from aligner.records import Answered, Question, Triple, Turn
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.sources import SimworldSource, Source
from aligner_jobs.raw_rows import BadRow
from aligner_jobs.sources import Item, pieces, read

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs" / "build-dataset"
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


def test_several_columns_make_one_question_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text('do,with\nSum up.,A text.\nRhyme.,\n"",alone\n\n"",""\n')
    found = items(source("questions", file, question_column=["do", "with"]))
    assert [getattr(item, "reason", None) or getattr(item, "row", None) for item in found] == [
        Question("Sum up.\n\nA text."),
        Question("Rhyme."),
        Question("alone"),
        "empty_question",
    ]


def test_answers_are_corrected_later(tmp_path: Path) -> None:
    file = rows(
        tmp_path / "a.jsonl", {"question": "q", "answer": "a", "by": "model"}, {"question": "q"}
    )
    item, bad = items(source("answers", file, upstream_column="by"))
    assert isinstance(item, Item)
    assert item.row == Answered("model", Question("q"), "a")
    assert bad == BadRow(f"{file}:2", "missing_by")


def test_steps_in_csv_are_numbers_too(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("question,answer,correction,step\nq,a,c,1\nq,a,c,2\nq,a,c,two\n")
    assert reasons(items(source("revisions", file, last_step=1))) == {
        "kept": 1,
        "later_step": 1,
        "not_a_number_step": 1,
    }


TALK = [
    {"from": "human", "value": "Hi."},
    {"from": "gpt", "value": "Hello."},
    {"from": "human", "value": "Why?"},
]
HISTORY = (Turn("user", "Hi."), Turn("assistant", "Hello."))


@pytest.mark.parametrize(
    ("turns", "asked"),
    [
        ("last", {":1": Question("Why?", HISTORY)}),
        ("all", {":1, turn 1": Question("Hi."), ":1, turn 3": Question("Why?", HISTORY)}),
    ],
)
def test_turns_of_the_user_are_questions(
    tmp_path: Path, turns: str, asked: dict[str, Question]
) -> None:
    file = rows(tmp_path / "c.jsonl", {"conversations": TALK})
    found = items(source("conversations", file, turns=turns))
    assert {i.where.removeprefix(str(file)): i.row for i in found if isinstance(i, Item)} == asked


def test_messages_may_be_written_as_openai_does(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    openai = {"role_key": "role", "text_key": "content"}
    file = rows(tmp_path / "c.jsonl", {"messages": said})
    (item,) = items(source("conversations", file, conversation_column="messages", messages=openai))
    assert isinstance(item, Item) and item.row == Question("Hi.")
    # As many preference sets have it: two whole conversations.
    other = [said[0], {"role": "assistant", "content": "Go away."}]
    file = rows(tmp_path / "p.jsonl", {"chosen": said, "rejected": other})
    (item,) = items(source("preference", file, layout="messages", messages=openai))
    assert isinstance(item, Item) and item.row == Triple("Hi.", "Go away.", "Hello.", source="name")


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
    ("config", "file", "account"),
    [
        ("preference-hh", "hh_harmless_test", {"kept": 2299, "role_repeated": 9, "empty_reply": 4}),
        ("revisions-selfee", "selfee_revisions", {"kept": 469}),
        ("revisions-cai", "cai_revisions", {"kept": 264}),
        ("qac-shepherd", "shepherd_critiques", {"kept": 1317}),
        ("preference-messages", "dpo_en_demo_300", {"kept": 300}),
        ("questions-alpaca", "alpaca_2000", {"kept": 2000}),
        ("questions-xstest", "xstest_prompts", {"kept": 450}),
        ("answers-xstest", "xstest_completions", {"kept": 2250}),
    ],
)
def test_shipped_configs_account_for_every_row_of_their_sets(
    shared_data: Path, config: str, file: str, account: dict[str, int]
) -> None:
    shipped = load(BuildDatasetConfig, CONFIGS / f"{config}.yaml")
    (of,) = shipped.sources.values()
    assert not isinstance(of, SimworldSource)
    name = Path(of.path).name
    assert name.startswith(f"{file}.")
    moved = of.model_copy(update={"path": str(shared_data / name)})
    assert reasons(items(moved, max_bad_share=shipped.max_bad_share)) == account


def test_an_input_of_alpaca_stands_below_its_instruction(shared_data: Path) -> None:
    of = source(
        "questions", shared_data / "alpaca_2000.jsonl.gz", question_column=["instruction", "input"]
    )
    asked = [item.row for item in items(of) if isinstance(item, Item)]
    plain = source("questions", shared_data / "alpaca_2000.jsonl.gz", question_column="instruction")
    alone = [item.row for item in items(plain) if isinstance(item, Item)]
    assert sum(one != other for one, other in zip(asked, alone, strict=True)) == 753


def test_instructions_in_front_of_conversations_are_set_aside_or_folded_in(
    shared_data: Path,
) -> None:
    set_up = {"layout": "messages", "conversation_column": "conversations"}
    of = source("preference", shared_data / "dpo_en_demo_300.jsonl.gz", **set_up)
    assert reasons(items(of)) == {"kept": 220, "system_turn": 80}


@pytest.mark.parametrize(
    ("file", "settings", "kept"),
    [
        ("hhh_alignment_221.jsonl.gz", {"kind": "preference", "layout": "columns"}, 221),
        ("aligner2b_corrections.jsonl.gz", {"kind": "qac", "upstream_column": "upstream"}, 1689),
        ("truthfulqa.csv.gz", {"kind": "questions", "question_column": "Question"}, 817),
        (
            "truthfulqa.csv.gz",
            {
                "kind": "qac",
                "question_column": "Question",
                "answer_column": "Incorrect Answers",
                "correction_column": "Best Answer",
            },
            817,
        ),
    ],
)
def test_real_sets_are_read_whole(
    shared_data: Path, file: str, settings: dict[str, str], kept: int
) -> None:
    assert reasons(items(source(path=shared_data / file, **settings))) == {"kept": kept}
