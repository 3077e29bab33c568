import math
import os
from pathlib import Path

import pytest

from aligner.adapters.memory_tracker import MemoryRun
from aligner.manifest import FileEntry, Manifest
from aligner.outbox import DatasetUse, Files, Metrics, Outbox, Params, Table, Tags, send
from aligner.prompt import PLAIN


def loss(step: int) -> Metrics:
    return Metrics(metrics={"loss": float(step)}, step=step, at_ms=1000 + step)


def steps(outbox: Outbox) -> list[int]:
    """What waits, taken out."""
    found = []
    while outbox:
        entry = outbox.first()
        assert isinstance(entry, Metrics)
        found.append(entry.step)
        outbox.take_first()
    return found


def test_entries_come_out_as_they_went_in_also_in_another_program(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    outbox = Outbox(folder)
    for step in (1, 2, 3):
        outbox.put(loss(step))
    outbox.take_first()
    again = Outbox(folder)
    assert len(again) == 2
    again.put(loss(4))
    assert steps(Outbox(folder)) == [2, 3, 4]
    assert not folder.exists()


def test_a_line_that_was_cut_off_costs_itself_alone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(loss(1))
    outbox.put(loss(2))
    file = tmp_path / "entries.jsonl"
    os.truncate(file, file.stat().st_size - 5)
    assert steps(Outbox(tmp_path)) == [1]


def test_numbers_that_are_none_survive(tmp_path: Path) -> None:
    Outbox(tmp_path).put(Metrics(metrics={"a": math.nan, "b": math.inf}, step=1, at_ms=1))
    entry = Outbox(tmp_path).first()
    assert isinstance(entry, Metrics)
    assert math.isnan(entry.metrics["a"])
    assert entry.metrics["b"] == math.inf


def test_what_finds_no_room_is_counted_and_the_rest_stays(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, max_bytes=200)
    for step in range(1, 9):
        outbox.put(loss(step))
    kept = len(outbox)
    assert 0 < kept < 8
    assert outbox.lost == 8 - kept
    assert steps(Outbox(tmp_path)) == list(range(1, kept + 1))


@pytest.mark.parametrize("folder", [False, True])
def test_files_are_kept_as_they_were(tmp_path: Path, folder: bool) -> None:
    original = tmp_path / "curves"
    text = original / "page.html" if folder else original
    text.parent.mkdir(exist_ok=True)
    text.write_text("first")
    outbox = Outbox(tmp_path / "outbox")
    outbox.put(Files(path=str(original), folder=None))
    text.write_text("second")
    kept = outbox.first()
    assert isinstance(kept, Files)
    assert Path(kept.path).name == "curves"
    inside = Path(kept.path) / "page.html" if folder else Path(kept.path)
    assert inside.read_text() == "first"


def test_every_kind_of_entry_reaches_the_run(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("")
    manifest = Manifest(
        kind="dataset",
        name="simworld",
        prompt=PLAIN,
        prompt_fingerprint=PLAIN.fingerprint,
        counts={"train": 3},
        files={"train/0.parquet": FileEntry(size_bytes=1, sha256="ab")},
    )
    outbox = Outbox(tmp_path / "outbox")
    for entry in (
        loss(2),
        Params(params={"seed": 1}),
        Tags(tags={"job": "train"}),
        Table(name="samples", rows=[{"step": 2, "answer": "No."}]),
        Files(path=str(page), folder="report"),
        DatasetUse(manifest=manifest, uri="data", context="training"),
    ):
        outbox.put(entry)
    run, outbox = MemoryRun("run-1", "test"), Outbox(tmp_path / "outbox")
    while outbox:
        send(outbox.first(), run)
        outbox.take_first()
    assert run.metrics == {"loss": {2: 2.0}}
    assert (run.params, run.tags) == ({"seed": 1}, {"job": "train"})
    assert run.tables == {"samples": [{"step": 2.0, "answer": "No."}]}
    assert run.artifacts == ["report/page.html"]
    assert run.datasets == [(manifest.content_hash, "training")]
