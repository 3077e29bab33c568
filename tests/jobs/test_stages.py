import json
from pathlib import Path

import pyarrow as pa
import pytest

from aligner.records import Question, Triple
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.quality import FilterConfig
from aligner_jobs.stages import judge, read_piece
from aligner_jobs.tables import WORK_SCHEMA, Row, question_row, triple_row

REFUSAL = "I'm sorry, but I can't help with that."
GERMAN = "Die Hauptstadt liegt am Fluss, und viele Leute wohnen sehr gern dort am großen Wasser."


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=WORK_SCHEMA)


def judged(triple: Triple, **settings: object) -> str | None:
    config = FilterConfig.model_validate(settings).model_dump(mode="json")
    (row,) = judge(table(triple_row(triple, where="f:1")), config=config).to_pylist()
    reason: str | None = row["reason"]
    return reason


@pytest.mark.parametrize(
    ("triple", "settings", "reason"),
    [
        (Triple("q", "a b", "a c"), {}, None),
        (Triple("q", "a", "a"), {}, None),
        (Triple("q", "a", "a"), {"drop_unchanged": True}, "unchanged"),
        (Triple("q", "a b", "a  b"), {}, "whitespace_edit"),
        (Triple("q", "a b", "a  b"), {"drop_whitespace_edits": False}, None),
        (Triple("q", "", "c"), {}, "blank_answer"),
        (Triple("q", "a" * 9, "c"), {"max_chars": 8}, "long_answer"),
        (Triple("q", "one two", "red blue"), {"min_similarity": 0.2}, "dissimilar"),
        (Triple("q", "one two", "red blue"), {}, None),
        (Triple("q", "a b c d", "a b c e"), {"max_similarity": 0.7}, "barely_edited"),
        (Triple("q", "a" * 9, "c"), {"min_length_ratio": 0.5}, "shrunk"),
        (Triple("q", "a", "c" * 9), {"max_length_ratio": 2.0}, "grown"),
        (Triple("q", "a", "c [INST]"), {}, "template_leak"),
        (Triple("q", "a", "c [INST]"), {"drop_template_leaks": False}, None),
        (Triple("q", "a", "Q!"), {"drop_echoes": True}, "echo"),
        (Triple("q", "a", "Q!"), {}, None),
        (Triple("q", "a", REFUSAL), {"drop_new_refusals": True}, "refusal_correction"),
        (Triple("q", REFUSAL, "c"), {"drop_refused_answers": True}, "refusal_answer"),
        (Triple("q", REFUSAL, REFUSAL), {}, None),
        (Triple("q", GERMAN, "c"), {"languages": ["en"]}, "language_answer"),
        (Triple("q", GERMAN, "c"), {"languages": ["en", "de"]}, None),
        (Triple("q", GERMAN, "c"), {"languages": ["en"], "min_language_chars": 100}, None),
    ],
)
def test_noise_is_dropped_as_configured(
    triple: Triple, settings: dict[str, object], reason: str | None
) -> None:
    assert judged(triple, **settings) == reason


def test_rows_get_their_id_when_they_are_complete() -> None:
    row = question_row(Question("q"), source="s", where="f:1", rows=1)
    complete = {**row, "answer": "a", "correction": "c", "upstream": "u"}
    config = FilterConfig().model_dump(mode="json")
    (found,) = judge(table(complete), config=config).to_pylist()
    assert found["row_id"] == Triple("q", "a", "c").row_id


def test_a_bad_question_counts_as_all_the_rows_it_might_have_become(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"question": "q"}) + "\n{}\n")
    upstream = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
    config = BuildDatasetConfig.model_validate(
        {
            "out": "x",
            "sources": {"s": {"kind": "questions", "path": str(file)}},
            "upstreams": {"u": {**upstream, "samples_per_question": 2}, "v": upstream},
            "teacher": {"kind": "openai", **upstream},
            "max_bad_share": 0.5,
        }
    )
    piece = pa.table({"name": ["s"], "path": [str(file)]})
    rows = pa.concat_tables(read_piece(piece, config=config.model_dump(mode="json"))).to_pylist()
    assert [(row["rows"], row["reason"]) for row in rows] == [(3, None), (3, "missing_question")]
