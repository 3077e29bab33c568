import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from aligner.errors import DataError
from aligner.generation import Completion, Messages, Sampling
from aligner_jobs.reply_store import Replies, decoded, encoded, reply_key

ASKED: Messages = [{"role": "user", "content": "q"}]
GREEDY = Sampling()
KEY = b"k" * 32


def key(
    name: str = "upstreams.one",
    model: str = "m",
    messages: Messages = ASKED,
    sampling: Sampling = GREEDY,
    *,
    n: int = 1,
    salt: str = "0",
) -> bytes:
    return reply_key(name, model, messages, sampling, n=n, salt=salt)


def test_a_reply_is_found_again_by_the_next_job(tmp_path: Path) -> None:
    said = [Completion("Hi.\ud800\0é", "stop", 3, 4), Completion("", "length")]
    with Replies(tmp_path) as replies:
        assert replies.find([KEY]) == {}
        replies.keep([(KEY, encoded(said))], {})
    with Replies(tmp_path) as replies:
        assert decoded(replies.find([b"other", KEY])[KEY]) == said


def test_many_keys_are_found_in_one_call(tmp_path: Path) -> None:
    pairs = [(str(number).encode(), b"%d" % number) for number in range(2000)]
    with Replies(tmp_path) as replies:
        replies.keep(pairs, {})
        assert replies.find([key for key, _ in pairs]) == dict(pairs)


@pytest.mark.parametrize(
    "other",
    [
        key(name="upstreams.two"),
        key(model="other"),
        key(messages=[{"role": "user", "content": "Q"}]),
        key(messages=[{"role": "system", "content": "q"}]),
        key(sampling=Sampling(temperature=0.1)),
        key(n=2),
        key(salt="1"),
    ],
)
def test_whatever_changes_the_request_changes_the_key(other: bytes) -> None:
    assert other != key()
    assert key() == key()


def test_the_ledger_adds_up_over_jobs(tmp_path: Path) -> None:
    for _ in range(2):
        with Replies(tmp_path) as replies:
            replies.keep([], {"upstreams.one": {"sent": 3, "ok": 2}, "teacher": {"sent": 1}})
            replies.keep([], {"upstreams.one": {"sent": 1}})
    with Replies(tmp_path) as replies:
        assert replies.ledger() == {"upstreams.one": {"sent": 8, "ok": 4}, "teacher": {"sent": 2}}


def test_two_jobs_at_once_are_refused(tmp_path: Path) -> None:
    with Replies(tmp_path), pytest.raises(DataError, match=r"another job .* wait .* replies"):
        Replies(tmp_path, patience_s=0.2)
    Replies(tmp_path, patience_s=0.2).close()


_FILL = """
import itertools, sys
from pathlib import Path
from aligner_jobs.reply_store import Replies
replies = Replies(Path(sys.argv[1]))
for number in itertools.count():
    replies.keep([(number.to_bytes(8, "big"), b"x" * 100)], {"one": {"kept": 1}})
    print(number, flush=True)
"""


def test_what_was_kept_outlives_a_kill(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _FILL, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        while (last := int(process.stdout.readline())) < 200:
            pass
        process.send_signal(signal.SIGKILL)
        last = max([last, *map(int, process.stdout.read().split("\n")[:-1])])
    with Replies(tmp_path, patience_s=5.0) as replies:
        kept = replies.find([number.to_bytes(8, "big") for number in range(last + 1)])
        assert len(kept) == last + 1
        # The very last may have been kept without being told of any more.
        assert replies.ledger()["one"]["kept"] in (last + 1, last + 2)


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "replies.sqlite")
    database.execute("CREATE TABLE mine (x)")
    database.close()
    with pytest.raises(DataError, match="another folder"):
        Replies(tmp_path)


def test_a_broken_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "replies.sqlite").write_bytes(b"not a database, but long enough" * 100)
    with pytest.raises(DataError, match=r"cannot be used .* remove the folder"):
        Replies(tmp_path)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .* replies"):
        Replies(tmp_path / "file" / "folder")
