import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aligner import artefacts
from aligner.artefacts import read_manifest, staging, verify
from aligner.errors import DataError
from aligner.prompt import PLAIN

FIELDS: dict[str, Any] = {
    "kind": "dataset",
    "name": "sample",
    "prompt": PLAIN,
    "prompt_fingerprint": PLAIN.fingerprint,
}


def publish(uri: str) -> None:
    with staging(uri) as stage:
        (stage.path / "train").mkdir()
        (stage.path / "train" / "part-0.txt").write_text("rows")
        stage.publish(**FIELDS)


def test_a_published_artefact_is_read_back_and_verified(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "dataset")
    publish(uri)
    manifest = read_manifest(uri, kind="dataset")
    assert list(manifest.files) == ["train/part-0.txt"]
    verify(Path(uri), manifest)


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path / "dataset")
    with pytest.raises(KeyboardInterrupt), staging(uri) as stage:
        (stage.path / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


_HOLD = """
import sys
from aligner.artefacts import staging
with staging(sys.argv[1]) as stage:
    (stage.path / "half.txt").write_text("half")
    print(stage.path, flush=True)
    input()
"""


def test_what_a_killed_writer_left_is_swept_and_a_living_ones_work_is_not(tmp_path: Path) -> None:
    uri, command = str(tmp_path / "dataset"), [sys.executable, "-c", _HOLD]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*command, uri], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        half = Path(writer.stdout.readline().strip())
        with staging(uri) as stage:
            assert (half / "half.txt").exists()
            assert half != stage.path
        writer.kill()
    assert half.exists()
    other = tmp_path / ".other.partial-1"
    other.mkdir()
    publish(uri)
    assert not half.exists()
    assert other.exists()


def test_a_place_that_cannot_be_written_to_is_known_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # Arrow's filesystem in memory: it is empty, and makes no folders by itself.
    uri = "mock:///far/dataset"
    with pytest.raises(DataError, match=f"{uri}: cannot be written"), staging(uri):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    uri = str(tmp_path / "dataset")
    publish(uri)
    with pytest.raises(DataError, match="something is there already"), staging(uri):
        pass


def test_an_empty_folder_may_be_published_to(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    publish(str(tmp_path / "dataset"))
    assert artefacts.exists(str(tmp_path / "dataset"))


def test_a_missing_artefact_and_a_wrong_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no export there \(manifest.json is missing\)"):
        read_manifest(str(tmp_path / "nothing"), kind="export")
    publish(str(tmp_path / "dataset"))
    with pytest.raises(DataError, match="is a dataset; an export is needed here"):
        read_manifest(str(tmp_path / "dataset"), kind="export")


def test_a_changed_or_missing_file_is_found(tmp_path: Path) -> None:
    uri = tmp_path / "dataset"
    publish(str(uri))
    manifest = read_manifest(str(uri), kind="dataset")
    file = uri / "train" / "part-0.txt"
    file.write_text("rots")
    with pytest.raises(DataError, match="differs from its manifest"):
        verify(uri, manifest)
    file.unlink()
    with pytest.raises(DataError, match="is missing"):
        verify(uri, manifest)


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="is broken; build the dataset again"):
        read_manifest(str(tmp_path), kind="dataset")
