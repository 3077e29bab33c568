import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligner.adapters.memory_tracker import MemoryTracker
from aligner.decontamination import LeakIndex
from aligner.errors import DataError
from aligner.records import Question, Triple
from aligner_jobs import build_dataset, decontaminate
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.tables import WORK_SCHEMA, bad_row, question_row, triple_row

EXAM = "How many legs does the common house spider have?"


def config(tmp_path: Path, against: dict[str, Any]) -> BuildDatasetConfig:
    return BuildDatasetConfig.model_validate(
        {
            "out": str(tmp_path / "out"),
            "sources": {"ready": {"kind": "qac", "path": "x.jsonl"}},
            "decontamination": {"against": against},
        }
    )


def exam_file(tmp_path: Path, *questions: str) -> dict[str, Any]:
    path = tmp_path / "exam.jsonl"
    lines = [json.dumps({"prompt": question}) for question in questions]
    path.write_text("\n".join(lines), encoding="utf-8")
    return {"kind": "questions", "path": str(path), "question_column": "prompt"}


def index(config: BuildDatasetConfig) -> LeakIndex:
    found = decontaminate.index(config)
    assert found is not None
    return found


def test_without_evaluation_sets_there_is_no_index(tmp_path: Path) -> None:
    plain = config(tmp_path, {"x": exam_file(tmp_path, "q")})
    assert decontaminate.index(plain.model_copy(update={"decontamination": None})) is None


def test_leaked_questions_are_dropped_by_the_name_of_the_set(tmp_path: Path) -> None:
    leaks = index(config(tmp_path, {"spiders": exam_file(tmp_path, EXAM)}))
    rows = [
        bad_row(source="s", where="f:1", reason="broken_json", rows=1),
        question_row(Question("How are you?"), source="s", where="f:2", rows=3),
        question_row(Question(f"Quick one: {EXAM}"), source="s", where="f:3", rows=3),
        triple_row(Triple(EXAM.lower(), "a", "c", source="s"), where="f:4"),
    ]
    table = pa.Table.from_pylist(rows, schema=WORK_SCHEMA)
    found = decontaminate.without_leaks(table, index=leaks).to_pylist()
    assert [row["reason"] for row in found] == [
        "broken_json",
        None,
        "leak_spiders",
        "leak_spiders",
    ]
    assert [row["step"] for row in found[2:]] == ["decontamination"] * 2
    assert [row["rows"] for row in found] == [1, 3, 3, 1]
    assert found[3]["answer"] is None


def test_a_source_of_triples_is_an_evaluation_set_by_its_questions(tmp_path: Path) -> None:
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"question": EXAM, "answer": "8", "correction": "8"}))
    leaks = index(config(tmp_path, {"e": {"kind": "qac", "path": str(path)}}))
    assert leaks.leaks([Question(EXAM)]) == ["e"]


def test_an_evaluation_set_that_cannot_be_read_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        index(config(tmp_path, {"e": {"kind": "qac", "path": str(tmp_path / "none.jsonl")}}))
    with pytest.raises(DataError, match=r"no dataset there"):
        index(config(tmp_path, {"e": {"kind": "heldout", "dataset": str(tmp_path / "none")}}))


@pytest.mark.e2e
def test_no_evaluation_question_reaches_a_dataset(tmp_path: Path) -> None:
    """Not that of a file, and none that another dataset holds out; near-duplicates go as well."""
    path = tmp_path / "rows.jsonl"
    asked = [f"What does a merchant from town number {n} sell on Mondays?" for n in range(60)]
    asked.append(f"  {EXAM.upper()} Answer in one word.")
    words = " ".join(f"word{number}" for number in range(80))
    answers = [f"Number {n} sells {n * 7} sorts of things." for n in range(60)]
    rows = [*zip(asked, [*answers, "8"], strict=True), ("x", words), ("x", f"{words} more")]
    lines = [{"question": q, "answer": a, "correction": f"{a} Indeed."} for q, a in rows]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    first = {
        "out": str(tmp_path / "first"),
        "sources": {"ready": {"kind": "qac", "path": str(path)}},
        "heldout_share": 0.4,
    }
    build_dataset.run(BuildDatasetConfig.model_validate(first), tracker=MemoryTracker())
    against = {
        "spiders": exam_file(tmp_path, EXAM),
        "heldout": {"kind": "heldout", "dataset": first["out"]},
    }
    second = {
        **first,
        "out": str(tmp_path / "second"),
        "decontamination": {"against": against},
        "near_duplicates": {},
    }
    done = build_dataset.run(BuildDatasetConfig.model_validate(second), tracker=MemoryTracker())

    held_out = set(pq.read_table(tmp_path / "first/heldout")["question"].to_pylist()) - {"x"}
    dropped = {step.step: step.dropped for step in done.manifest.funnel}
    assert dropped["decontamination"]["leak_spiders"] == 1
    assert dropped["decontamination"]["leak_heldout"] >= len(held_out) - 1 > 10
    assert dropped["duplicates"] == {"near_duplicate": 1}
    for split in ("train", "heldout", "warmup"):
        found = set(pq.read_table(tmp_path / "second" / split)["question"].to_pylist())
        assert not found & held_out
        assert not any(EXAM.lower() in question.lower() for question in found)
