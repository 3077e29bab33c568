"""A dataset of answers that somebody gave already: no upstream is asked, the teacher alone."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aligner.adapters.memory_tracker import MemoryTracker
from aligner.adapters.simworld_http import SimworldServer
from aligner.config import validate
from aligner.records import Question, from_columns
from aligner.simworld.questions import training_questions
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner_jobs import build_dataset
from aligner_jobs.config.build_dataset import BuildDatasetConfig


@pytest.mark.e2e
def test_answers_of_a_table_are_corrected_beside_a_source_of_triples(tmp_path: Path) -> None:
    world, out = World(0), tmp_path / "dataset"
    asked = [question.question for question in training_questions(world, 40)]
    answers, triples = tmp_path / "answers.csv", tmp_path / "triples.tsv"
    with answers.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["ask", "reply", "model"])
        table.writerows([text, "I do not know.", "silent"] for text in asked)
        table.writerow(["short row"])
    triples.write_text("question\tanswer\tcorrection\nq\ta\tc\n")
    with SimworldServer(0) as server:
        raw = {
            "out": str(out),
            "sources": {
                "answers": {
                    "kind": "answers",
                    "path": str(answers),
                    "question_column": "ask",
                    "answer_column": "reply",
                    "upstream_column": "model",
                },
                "triples": {"kind": "qac", "path": str(triples)},
            },
            "base_url": server.base_url,
            "teacher": {"kind": "openai", "model": "teacher"},
            "heldout_share": 0.0,
            "warmup_share": 0.0,
            "gates": {"max_copy_rate": 1.0},
        }
        config = validate(BuildDatasetConfig, raw, where="test.yaml")
        manifest = build_dataset.run(config, tracker=MemoryTracker()).manifest
    steps = {step.step: step for step in manifest.funnel}
    assert list(steps) == ["read", "corrections", "filters", "duplicates"]
    assert (steps["read"].rows_in, steps["read"].dropped) == (42, {"ragged_row": 1})
    assert steps["duplicates"].rows_out == 41
    assert manifest.facts["sources"]["answers"]["rows_read"] == 41
    found = [from_columns(row) for row in pq.read_table(out / "train").to_pylist()]
    assert {row.upstream for row in found if row.source == "answers"} == {"silent"}
    for row in found:
        if row.source == "answers":
            assert row.teacher == "teacher"
            assert row.correction == correct(world, Question(row.question), row.answer)
