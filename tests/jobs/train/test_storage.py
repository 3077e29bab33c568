"""Where checkpoints are kept: what is broken there, what is left there, and what goes away."""

import json
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from outage import Relay

from aligner.errors import DataError
from aligner_jobs.train.storage import Storage, bring, forget_broken_list, open_storage

AWAY_S = float(os.environ.get("ALIGNER_TEST_OUTAGE_S", "3"))
"""The same test passes with 60."""
LOCAL = pafs.LocalFileSystem()
LIST = "checkpoint_manager_snapshot.json"
NAMES = ("warmup-0000004-aaaaaaaa", "correction-0000002-bbbbbbbb", "correction-0000012-cccccccc")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with three checkpoints and what else may lie there."""
    for name in (*NAMES, ".part-0", "notes"):
        (tmp_path / name).mkdir()
    return tmp_path


def listing(*names: str) -> str:
    return json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name} for name in names]})


def test_checkpoints_are_found_furthest_first(run: Path) -> None:
    assert Storage(LOCAL, str(run), rank=0).names() == [NAMES[2], NAMES[1], NAMES[0]]


def test_uploads_that_broke_off_are_swept_and_nothing_else(run: Path) -> None:
    Storage(LOCAL, str(run), rank=0).sweep({NAMES[0]})
    assert {path.name for path in run.iterdir()} == {NAMES[0], ".part-0", "notes"}


@pytest.mark.parametrize("text", ["", '{"checkpoint_res', "{}", listing(NAMES[0], "gone")])
def test_a_list_that_would_keep_a_run_from_resuming_is_forgotten(run: Path, text: str) -> None:
    (run / LIST).write_text(text)
    forget_broken_list(LOCAL, str(run))
    assert not (run / LIST).exists()


def test_a_good_list_is_kept_and_none_is_fine(run: Path) -> None:
    forget_broken_list(LOCAL, str(run))
    (run / LIST).write_text(listing(*NAMES))
    forget_broken_list(LOCAL, str(run))
    assert (run / LIST).exists()


def test_a_part_is_moved_beside_the_others(run: Path) -> None:
    parts = [Storage(LOCAL, str(run), rank=rank) for rank in range(2)]
    for rank, part in enumerate(parts):
        (part.prepare() / f"state-{rank}").write_text(str(rank))
        part.upload(None, "correction-0000016-dddddddd")
    found = run / "correction-0000016-dddddddd"
    assert {path.name: path.read_text() for path in found.iterdir()} == {
        "state-0": "0", "state-1": "1",
    }  # fmt: skip


def test_what_went_wrong_in_the_background_is_told_at_the_next_checkpoint(run: Path) -> None:
    part = Storage(LOCAL, str(run), rank=0)
    part.prepare()
    (run / "correction-0000016-dddddddd").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="correction-0000016-dddddddd: a checkpoint could not be"):
        part.upload(None, "correction-0000016-dddddddd")
    with pytest.raises(OSError, match="exists"):
        part.prepare()


def test_a_machine_that_sees_another_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Storage(LOCAL, str(tmp_path / "not-here"), rank=0).prepare()


def test_an_upload_waits_for_a_server_that_is_away(
    s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also in another process, to which the filesystem goes by pickling."""
    with Relay(int(s3.endpoint.rpartition(":")[2])) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
        filesystem, path = open_storage("s3://test/run/checkpoints")
        content = b"state" * (3 << 20)
        (tmp_path / "part").mkdir()
        (tmp_path / "part" / "state").write_bytes(content)
        began_s = time.monotonic()
        relay.go_away()
        timer = threading.Timer(AWAY_S, relay.come_back)
        timer.start()
        bring(tmp_path / "part", pickle.loads(pickle.dumps(filesystem)), f"{path}/one")
        assert time.monotonic() - began_s > AWAY_S * 0.9
        timer.join()
    assert not (tmp_path / "part").exists()
    with s3.filesystem().open_input_stream("test/run/checkpoints/one/state") as found:
        assert found.read() == content
