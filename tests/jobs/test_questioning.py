import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligner import artefacts
from aligner.config import validate
from aligner.errors import DataError
from aligner.prompt import PLAIN
from aligner.records import TRIPLE_SCHEMA, Triple, Turn, to_columns
from aligner.simworld.questions import heldout_questions
from aligner.simworld.world import World
from aligner_jobs.config.evaluate import EvaluateConfig
from aligner_jobs.questioning import QuestionSet, load_questions

QUESTIONS = [question.question for question in heldout_questions(World(0), 6)]


def load(**questions: Any) -> QuestionSet:
    raw = {
        "out": "report",
        "model": "m",
        "upstreams": {"iron": {"model": "iron", "base_url": "http://127.0.0.1:9/v1"}},
        "questions": questions,
        "judge": {"kind": "simworld"},
    }
    return load_questions(validate(EvaluateConfig, raw, where="test.yaml"))


def publish_dataset(folder: Path, heldout: list[Triple]) -> str:
    uri = str(folder / "dataset")
    with artefacts.staging(uri) as stage:
        (stage.path / "heldout").mkdir()
        table = pa.Table.from_pylist([to_columns(row) for row in heldout], schema=TRIPLE_SCHEMA)
        pq.write_table(table, stage.path / "heldout" / "part-00000.parquet")
        stage.publish(kind="dataset", name="d", prompt=PLAIN, prompt_fingerprint=PLAIN.fingerprint)
    return uri


def test_questions_of_the_simulated_world_are_the_held_out_ones() -> None:
    found = load(kind="simworld", limit=6)
    assert [question.question for question in found.questions] == QUESTIONS
    assert "seed 0" in found.described
    assert not found.parents


def test_a_dataset_gives_its_held_out_questions_once_each(tmp_path: Path) -> None:
    rows = [
        Triple(question, answer, "C.", upstream=answer)
        for question in QUESTIONS
        for answer in ("a", "b")
    ]
    uri = publish_dataset(tmp_path, rows)
    found = load(kind="dataset", uri=uri)
    assert [question.question for question in found.questions] == QUESTIONS
    manifest = artefacts.read_manifest(uri, kind="dataset")
    assert found.parents == (manifest.as_parent(uri),)
    assert len(load(kind="dataset", uri=uri, limit=2).questions) == 2


def test_a_dataset_without_held_out_rows_is_refused(tmp_path: Path) -> None:
    uri = publish_dataset(tmp_path, [])
    with pytest.raises(DataError, match="the held-out rows of d hold no question"):
        load(kind="dataset", uri=uri)


def test_a_conversation_is_nothing_for_the_simulated_judge(tmp_path: Path) -> None:
    row = Triple(
        QUESTIONS[0], "a", "C.", history=(Turn("user", "Hello."), Turn("assistant", "Hi."))
    )
    uri = publish_dataset(tmp_path, [row])
    with pytest.raises(DataError, match="none of the simulated world"):
        load(kind="dataset", uri=uri)


def test_files_give_their_questions_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in QUESTIONS))
    found = load(kind="questions", path=str(path), limit=4)
    assert [question.question for question in found.questions] == QUESTIONS[:4]


def test_a_file_with_too_many_bad_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": QUESTIONS[0]}) + "\n{}\n")
    with pytest.raises(DataError, match=r"questions\.jsonl.*missing_question"):
        load(kind="questions", path=str(path))
    found = load(kind="questions", path=str(path), max_bad_share=0.5)
    assert len(found.questions) == 1
