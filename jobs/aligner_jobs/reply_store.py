"""Every reply that was paid for, kept: the response cache and the ledger, in one SQLite file.

What is written here has reached the operating system within milliseconds, so killing the job
loses only requests that were under way. Keys are hashes: a question cannot be read back from one.
"""

import contextlib
import fcntl
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self, TextIO

from aligner.errors import DataError
from aligner.generation import Completion, Messages, Sampling

_FILE: Final = "replies.sqlite"
_APPLICATION_ID: Final = 0x416C5270
_VERSION: Final = 1
_KEYS_PER_QUERY: Final = 500

_TABLES: Final = (
    "CREATE TABLE replies (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE ledger (name TEXT, item TEXT, amount INTEGER NOT NULL, PRIMARY KEY (name, item))"
    " WITHOUT ROWID",
    "CREATE TABLE notes (name TEXT PRIMARY KEY) WITHOUT ROWID",
)

Counts = Mapping[str, Mapping[str, int]]
"""Of a ledger: by the name of who was asked and the item that is counted."""


def reply_key(
    name: str, model: str, messages: Messages, sampling: Sampling, *, n: int, salt: str
) -> bytes:
    """What a reply is kept under: another model, prompt, sampling or number is another request.

    ``name`` is who was asked: two endpoints may call different models by one name. ``salt`` is
    whatever else decides the reply.
    """
    asked = [name, model, messages, sampling.model_dump(mode="json"), n, salt]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()


def encoded(completions: Sequence[Completion]) -> bytes:
    """``completions`` as they are stored."""
    return json.dumps(
        [
            [one.text, one.finish_reason, one.prompt_tokens, one.completion_tokens]
            for one in completions
        ]
    ).encode()


def encoded_failure(reason: str) -> bytes:
    """In the place of completions: why there are none. Never stored, only passed on."""
    return json.dumps(reason).encode()


def decoded(value: bytes) -> list[Completion] | str:
    """The opposite of :func:`encoded` and :func:`encoded_failure`."""
    found = json.loads(value)
    return found if isinstance(found, str) else [Completion(*fields) for fields in found]


class Replies:
    """The file in ``folder``; one job at a time may hold it open. Any thread may use it."""

    def __init__(self, folder: Path, *, patience_s: float = 30.0) -> None:
        """``patience_s`` is how long the remains of a killed job may take to let go.

        Raises:
            DataError: Another job holds the folder, or the file is none of ours or broken.
        """
        self._folder = folder
        with contextlib.ExitStack() as opened, _sentences(folder):
            opened.enter_context(_locked(folder, patience_s))
            self._database = sqlite3.connect(
                folder / _FILE, isolation_level=None, check_same_thread=False, timeout=30.0
            )
            opened.callback(self._database.close)
            _prepare(self._database, folder)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let others have the folder."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of those of ``keys`` that are there."""
        found: dict[bytes, bytes] = {}
        with _sentences(self._folder):
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, value FROM replies WHERE key IN ({marks})"
                found.update(self._database.execute(query, some))
        return found

    def keep(self, replies: Iterable[tuple[bytes, bytes]], counts: Counts) -> None:
        """Store ``replies`` and add ``counts`` to the ledger, both or none.

        Raises:
            DataError: They cannot be written.
        """
        amounts = [
            (name, item, amount) for name, items in counts.items() for item, amount in items.items()
        ]
        with _sentences(self._folder), _transaction(self._database):
            self._database.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", replies)
            self._database.executemany(
                "INSERT INTO ledger VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
                amounts,
            )

    def note(self, name: str) -> None:
        """Remember ``name``: a file elsewhere whose content is here."""
        with _sentences(self._folder):
            self._database.execute("INSERT OR IGNORE INTO notes VALUES (?)", (name,))

    def noted(self) -> set[str]:
        """All names that were noted."""
        with _sentences(self._folder):
            return {name for (name,) in self._database.execute("SELECT name FROM notes")}

    def ledger(self) -> dict[str, dict[str, int]]:
        """What was counted since the folder is there, over all jobs that used it."""
        with _sentences(self._folder):
            rows = self._database.execute("SELECT * FROM ledger ORDER BY name, item").fetchall()
        found: dict[str, dict[str, int]] = {}
        for name, item, amount in rows:
            found.setdefault(name, {})[item] = amount
        return found


def _locked(folder: Path, patience_s: float) -> TextIO:
    """A file that is locked as long as it is open."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as exc:
        raise DataError(
            f"{folder}: cannot be written ({exc.strerror}); name another folder in replies."
        ) from None
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            lock.close()
            raise DataError(
                f"{folder}: another job is using these replies; wait for its end, or name "
                "another folder in replies."
            ) from None
        return lock


def _prepare(database: sqlite3.Connection, folder: Path) -> None:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and (application, version) != (_APPLICATION_ID, _VERSION):
        raise DataError(
            f"{folder / _FILE}: holds no replies that this version can read; name another folder "
            "in replies."
        )
    # With WAL and NORMAL a commit is a write without a flush: a killed process loses nothing,
    # a machine that loses power the last moments.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    if not tables:
        with _transaction(database):
            for table in _TABLES:
                database.execute(table)
            database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {_VERSION}")


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


@contextlib.contextmanager
def _sentences(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        reason = str(exc).rstrip(".") or type(exc).__name__
        raise DataError(
            f"{folder / _FILE}: cannot be used ({reason}); see to the disk, or remove the folder "
            "and pay for its replies again."
        ) from None
