"""Kept replies on object storage: small Parquet files, so that another machine can resume.

The SQLite file of :mod:`aligner_jobs.reply_store` is what is read and written; every few seconds
what is new in it goes up as one more file. While the storage is away it waits.
"""

import hashlib
import json
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from aligner import artefacts
from aligner.errors import DataError
from aligner_jobs.reply_store import Counts, Replies

_SCHEMA: Final = pa.schema([("key", pa.binary()), ("value", pa.binary())])
_COUNTS: Final = b"counts"
_PATIENCE_S: Final = 60.0


def is_remote(uri: str) -> bool:
    """Whether replies at ``uri`` need a mirror."""
    return "://" in uri


def local_folder(uri: str) -> Path:
    """Where this machine has its file of the replies at ``uri``; the same in every run."""
    digest = hashlib.sha256(uri.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"aligner-replies-{digest}"


class Mirror:
    """Keeps ``uri`` up to date with what is added to ``replies``, in a thread of its own."""

    def __init__(self, uri: str, replies: Replies, *, every_s: float = 3.0) -> None:
        """Fetch what is at ``uri`` and not here yet.

        Raises:
            DataError: The storage cannot be read.
        """
        self._uri, self._replies, self._every_s = uri, replies, every_s
        self._filesystem, self._path = artefacts.resolve(uri)
        self._new: list[tuple[bytes, bytes, Counts]] = []
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._fetch()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, keep: list[tuple[bytes, bytes]], counts: Counts) -> None:
        """Take in what was kept; it goes up soon."""
        with self._lock:
            self._new += [(key, value, {}) for key, value in keep]
            if counts:
                self._new.append((b"", b"", counts))

    def close(self) -> None:
        """Send what is left.

        Raises:
            DataError: The storage stayed away; this machine still has the replies.
        """
        self._ends.set()
        self._thread.join()
        deadline = time.monotonic() + _PATIENCE_S
        while not self._sent():
            if time.monotonic() > deadline:
                raise DataError(
                    f"{self._uri}: the last replies could not be written; they are in "
                    f"{local_folder(self._uri)}, so run the same command again on this machine."
                )
            time.sleep(1.0)

    def _run(self) -> None:
        while not self._ends.wait(self._every_s):
            self._sent()

    def _sent(self) -> bool:
        """Write one file of all that is new; whether nothing is left to write."""
        with self._lock:
            sending, self._new = self._new, []
        if not sending:
            return True
        name = f"{uuid.uuid4().hex}.parquet"
        counts = [one for _, _, one in sending if one]
        table = pa.table(
            [[key for key, _, one in sending if not one], [v for _, v, one in sending if not one]],
            schema=_SCHEMA.with_metadata({_COUNTS: json.dumps(_summed(counts))}),
        )
        try:
            if isinstance(self._filesystem, pafs.LocalFileSystem):
                Path(self._path).mkdir(parents=True, exist_ok=True)
            pq.write_table(
                table, f"{self._path}/{name}", filesystem=self._filesystem, compression="zstd"
            )
        except OSError:
            with self._lock:
                self._new = sending + self._new
            return False
        self._replies.note(name)
        return True

    def _fetch(self) -> None:
        known = self._replies.noted()
        try:
            selector = pafs.FileSelector(self._path, allow_not_found=True)
            for info in self._filesystem.get_file_info(selector):
                if info.base_name in known or not info.base_name.endswith(".parquet"):
                    continue
                table = pq.read_table(info.path, filesystem=self._filesystem)
                pairs = zip(*(column.to_pylist() for column in table.columns), strict=True)
                counts = json.loads((table.schema.metadata or {}).get(_COUNTS, b"{}"))
                self._replies.keep(pairs, counts)
                self._replies.note(info.base_name)
        except (OSError, pa.ArrowInvalid) as exc:
            raise DataError(
                f"{self._uri}: its replies cannot be read ({type(exc).__name__}); see to the "
                "storage, or name another place in replies."
            ) from None


def _summed(counts: list[Counts]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for one in counts:
        for name, items in one.items():
            into = total.setdefault(name, {})
            for item, amount in items.items():
                into[item] = into.get(item, 0) + amount
    return total
