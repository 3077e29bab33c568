"""Replies on another machine: a folder that is addressed by URI stands for the object storage."""

import shutil
from pathlib import Path

import pytest

from aligner.errors import DataError
from aligner_jobs.reply_mirror import Mirror, is_remote, local_folder
from aligner_jobs.reply_store import Replies


def keep(replies: Replies, mirror: Mirror, *keys: bytes) -> None:
    pairs, counts = [(key, b"v" + key) for key in keys], {"one": {"sent": len(keys)}}
    replies.keep(pairs, counts)
    mirror.add(pairs, counts)


def test_another_machine_goes_on_with_replies_and_ledger(tmp_path: Path) -> None:
    uri = (tmp_path / "storage").as_uri()
    with Replies(tmp_path / "here") as replies:
        mirror = Mirror(uri, replies, every_s=0.01)
        keep(replies, mirror, b"a", b"b")
        keep(replies, mirror, b"c")
        mirror.close()
    for _ in range(2):
        with Replies(tmp_path / "there") as replies:
            Mirror(uri, replies).close()
            assert replies.find([b"a", b"b", b"c", b"d"]) == {b"a": b"va", b"b": b"vb", b"c": b"vc"}
            assert replies.ledger() == {"one": {"sent": 3}}


def test_the_machine_that_wrote_them_does_not_count_twice(tmp_path: Path) -> None:
    uri = (tmp_path / "storage").as_uri()
    for expected in (1, 2):
        with Replies(tmp_path / "here") as replies:
            mirror = Mirror(uri, replies)
            keep(replies, mirror, b"%d" % expected)
            mirror.close()
            assert replies.ledger() == {"one": {"sent": expected}}


def test_storage_that_comes_back_gets_everything(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    with Replies(tmp_path / "here") as replies:
        mirror = Mirror(storage.as_uri(), replies, every_s=0.01)
        # A file where the folder should be: nothing can be written.
        storage.write_text("away")
        keep(replies, mirror, b"a")
        keep(replies, mirror, b"b")
        mirror._ends.wait(0.1)
        storage.unlink()
        mirror.close()
    with Replies(tmp_path / "there") as replies:
        Mirror(storage.as_uri(), replies).close()
        assert len(replies.find([b"a", b"b"])) == 2


def test_files_that_are_no_replies_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no")
    with Replies(tmp_path / "here") as replies, pytest.raises(DataError, match="cannot be read"):
        Mirror(tmp_path.as_uri(), replies)


def test_each_place_has_a_file_of_its_own_here() -> None:
    one, two = local_folder("s3://bucket/one"), local_folder("s3://bucket/two")
    assert one != two
    assert one == local_folder("s3://bucket/one")
    assert is_remote("s3://bucket/one") and not is_remote("data/one.replies")
    shutil.rmtree(one, ignore_errors=True)
