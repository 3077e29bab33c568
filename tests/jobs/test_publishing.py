"""Artefacts on a real S3-compatible server: published whole or not at all, and read by the jobs."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from aligner import artefacts
from aligner.adapters.hf_tokenizer import write_files
from aligner.adapters.memory_tracker import MemoryTracker
from aligner.config import validate
from aligner.errors import DataError, GateRefused
from aligner.packing import read_packs
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner_jobs import build_dataset, questioning
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.evaluate import EvaluateConfig
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train import material
from aligner_jobs.train.tokenizer import train_tokenizer

FIELDS: dict[str, Any] = {
    "kind": "dataset",
    "name": "sample",
    "prompt": PLAIN,
    "prompt_fingerprint": PLAIN.fingerprint,
}


class BrokenOff(Exception):
    """Stands for whatever ends a program in the middle."""


def names(filesystem: pafs.FileSystem, folder: str) -> set[str]:
    """Paths of all objects below ``folder``."""
    found = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    return {
        info.path.removeprefix(f"{folder}/") for info in found if info.type == pafs.FileType.File
    }


def publish(uri: str, content: str) -> None:
    with artefacts.staging(uri) as stage:
        (stage.path / "train").mkdir()
        (stage.path / "train" / "part-0.txt").write_text(content)
        stage.publish(**FIELDS)


def test_an_upload_that_broke_off_is_no_artefact_and_is_replaced(s3: Any) -> None:
    filesystem, uri = s3.filesystem(), "s3://test/broken/dataset"
    for name in ("upload-under-way", "train/part-0.txt", "train/part-9.txt"):
        with filesystem.open_output_stream(f"test/broken/dataset/{name}") as stream:
            stream.write(b"half")
    assert not artefacts.exists(uri)
    with pytest.raises(DataError, match="no dataset there"):
        artefacts.read_manifest(uri, kind="dataset")
    publish(uri, "whole")
    assert names(filesystem, "test/broken/dataset") == {"manifest.json", "train/part-0.txt"}
    assert artefacts.exists(uri)
    with pytest.raises(DataError, match="something is there already"):
        publish(uri, "again")


def test_objects_of_somebody_else_are_left_alone(s3: Any) -> None:
    filesystem = s3.filesystem()
    with filesystem.open_output_stream("test/others/notes.txt") as stream:
        stream.write(b"mine")
    with pytest.raises(DataError, match="something is there already"):
        publish("s3://test/others", "x")
    assert names(filesystem, "test/others") == {"notes.txt"}


def test_a_place_that_cannot_be_written_to_is_named_before_the_work_begins(s3: Any) -> None:
    with (
        pytest.raises(DataError, match=r"s3://nowhere/x: cannot be written \(no_such_bucket\)"),
        artefacts.staging("s3://nowhere/x"),
    ):
        pytest.fail("work began")
    with pytest.raises(BrokenOff), artefacts.staging("s3://test/tried/dataset"):
        raise BrokenOff
    assert names(s3.filesystem(), "test") & {"tried/dataset/upload-under-way"} == set()


# --- with Ray -------------------------------------------------------------------------------------

ROWS = 400


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """Two sources of 400 rows: edits in the one, copies in the other."""
    found = {}
    for name, tail in (("edits", " more"), ("copies", "")):
        path = tmp_path / f"{name}.jsonl.gz"
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            for n in range(ROWS):
                answer = f"{name} answer {n}"
                row = {"question": f"{name} {n}", "answer": answer, "correction": answer + tail}
                stream.write(json.dumps(row) + "\n")
        found[name] = {"kind": "qac", "path": str(path)}
    return found


def config(out: str, **changes: object) -> BuildDatasetConfig:
    return validate(BuildDatasetConfig, {"out": out, "name": "n", **changes}, where="test.yaml")


def evaluation(dataset: str) -> EvaluateConfig:
    """With a judge that reads the questions and then says that it does not know them."""
    raw = {
        "out": "report",
        "model": "m",
        "upstreams": {"iron": {"model": "iron", "base_url": "http://127.0.0.1:9/v1"}},
        "questions": {"kind": "dataset", "uri": dataset},
        "judge": {"kind": "simworld"},
    }
    return validate(EvaluateConfig, raw, where="test.yaml")


@pytest.mark.e2e
def test_a_dataset_on_s3_has_packs_and_a_page_and_is_read_by_training_and_evaluation(
    s3: Any, sources: dict[str, Any], tmp_path: Path
) -> None:
    folder, out = tmp_path / "tokenizer", "s3://test/whole/dataset"
    folder.mkdir()
    rows = [Triple("edits 1", "edits answer 1", "edits answer 1 more")]
    write_files(train_tokenizer(rows, template=PLAIN, vocab_size=300), folder)
    settings = config(
        out,
        sources=sources,
        mix={"edits": 3, "copies": 1},
        packing={"tokenizer": str(folder), "max_tokens": 256},
        heldout_share=0.1,
    )
    tracker = MemoryTracker()
    manifest = build_dataset.run(settings, tracker=tracker).manifest

    assert artefacts.read_manifest(out, kind="dataset") == manifest
    mixed = manifest.funnel[-1]
    assert (mixed.step, mixed.dropped) == ("mix", {"over_share": 267})
    assert mixed.rows_out == manifest.counts["train"] + manifest.counts["heldout"] == 533
    found = names(s3.filesystem(), "test/whole/dataset")
    assert found == {*manifest.files, "manifest.json"}
    assert {"report.html", "packed/train/part-00000.parquet"} <= found
    assert tracker.runs["run-1"].artifacts == ["dataset/report.html"]
    packs = manifest.facts["packing"]["splits"]["train"]
    assert packs["documents"] == manifest.counts["train"]
    filesystem, path = artefacts.resolve(f"{out}/packed/train")
    packed = list(read_packs(pq.read_table(path, filesystem=filesystem)))
    assert sum(len(one.row_ids) for one in packed) == manifest.counts["train"]

    raw = {"dataset": out, "out": str(tmp_path / "model"), "model": {"kind": "scratch"}}
    training = validate(TrainConfig, raw, where="test")
    made = material.load(training, manifest, material.survey(training, manifest))
    assert len(made.phases["correction"]) == manifest.counts["train"]
    assert made.parents == (manifest.as_parent(out),)
    with pytest.raises(
        DataError, match=rf"{manifest.counts['heldout']} from the held-out rows of n"
    ):
        questioning.load_questions(evaluation(out))
    assert build_dataset.run(settings, tracker=tracker).reused


@pytest.mark.e2e
def test_a_gate_that_fails_leaves_nothing_on_s3_but_its_page(
    s3: Any, sources: dict[str, Any]
) -> None:
    settings = config("s3://test/refused/dataset", sources={"copies": sources["copies"]})
    with pytest.raises(
        GateRefused, match=r"max_copy_rate: 1, at most 0\.8 .*dataset\.report\.html"
    ):
        build_dataset.run(settings, tracker=MemoryTracker())
    assert names(s3.filesystem(), "test/refused") == {"dataset.report.html"}
