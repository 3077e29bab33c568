"""Feedback on its way to the disk: told as kept once it is there, and then whole.

Each replica of the gateway writes files of its own, so nobody waits for anybody. What waits while
a write is under way is written with the next one: a burst costs few writes.
"""

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from aligner.artefacts import resolve
from aligner.errors import DataError
from aligner.feedback import FeedbackRow
from aligner_serve.config.feedback import FeedbackConfig

Kept = Literal["kept", "busy", "full", "away"]
"""``busy``: too much waits; ``full``: all that may be written is; ``away``: it could not be written
now, and may have been all the same."""

Write = Callable[[bytes], None]
"""Whole lines, on the disk when it returns; raises ``OSError`` or ``DataError`` where not."""

_BLOCK_BYTES: Final = 4 * 2**20
"""Of one write; far below what an object store takes in one piece."""


class FeedbackStore(Protocol):
    """Where feedback goes."""

    async def keep(self, row: FeedbackRow) -> Kept:
        """``kept`` once it would survive the end of this process."""


class FeedbackFiles:
    """The files of one replica."""

    def __init__(self, config: FeedbackConfig, *, write: Write | None = None) -> None:
        """``write`` is for tests; nothing is opened before the first row."""
        self._config = config
        self._write = write or _writer(config.uri)
        self._waiting: list[tuple[bytes, asyncio.Future[Kept]]] = []
        self._under_way = 0
        self._written_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    async def keep(self, row: FeedbackRow) -> Kept:
        """See :class:`FeedbackStore`; given up after ``timeout_s``."""
        line = row.line()
        if len(self._waiting) + self._under_way >= self._config.max_waiting:
            return "busy"
        waiting_bytes = sum(len(other) for other, _ in self._waiting)
        if self._written_bytes + waiting_bytes + len(line) > self._config.max_bytes:
            return "full"
        done: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        try:
            return await asyncio.wait_for(done, self._config.timeout_s)
        except TimeoutError:
            return "away"

    async def _write_all(self) -> None:
        """Write what waits, block by block, until nothing does."""
        try:
            while block := self._next_block():
                kept = await self._write_block(b"".join(line for line, _ in block), len(block))
                for _, done in block:
                    # Whoever waited may have gone.
                    if not done.done():
                        done.set_result(kept)
        finally:
            self._writing = None

    async def _write_block(self, lines: bytes, rows: int) -> Kept:
        # Counted before: a row whose client has given up may be on the disk all the same.
        self._under_way, self._written_bytes = rows, self._written_bytes + len(lines)
        try:
            await asyncio.to_thread(self._write, lines)
        except (OSError, DataError):
            self._written_bytes -= len(lines)
            return "away"
        finally:
            self._under_way = 0
        return "kept"

    def _next_block(self) -> list[tuple[bytes, asyncio.Future[Kept]]]:
        size = count = 0
        for line, _ in self._waiting:
            size += len(line)
            if count and size > _BLOCK_BYTES:
                break
            count += 1
        block, self._waiting = self._waiting[:count], self._waiting[count:]
        return block


def _writer(uri: str) -> Write:
    return _Objects(uri).write if "://" in uri else _LocalFile(Path(uri)).write


def _name() -> str:
    """Sorts by time, and is nobody else's."""
    at = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return f"feedback-{at}-{uuid.uuid4().hex[:12]}.jsonl"


class _Objects:
    """One object for each write: it appears whole, and nothing can be added to it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._opened: tuple[Any, str] | None = None

    def write(self, lines: bytes) -> None:
        # Not before it is needed: whoever starts a gateway may do so without the object store.
        self._opened = self._opened or resolve(self._uri)
        filesystem, folder = self._opened
        with filesystem.open_output_stream(f"{folder}/{_name()}") as stream:
            stream.write(lines)


class _LocalFile:
    """A file that grows by whole lines; one that could not be mended is left for a new one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number: int | None = None
        self._size = 0

    def write(self, lines: bytes) -> None:
        number = self._opened()
        try:
            _write_all(number, lines)
            os.fsync(number)
        except OSError:
            self._mend(number)
            raise
        self._size += len(lines)

    def _opened(self) -> int:
        if self._number is None:
            # Texts of users: nobody else on the machine is to read them.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
            self._number, self._size = os.open(self._folder / _name(), flags, mode=0o600), 0
            _sync_folder(self._folder)
        return self._number

    def _mend(self, number: int) -> None:
        """Take back what was half written: on a full disk, say."""
        try:
            os.ftruncate(number, self._size)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(number)
            self._number = None


def _write_all(number: int, lines: bytes) -> None:
    """One call for all but huge blocks or an interrupted one."""
    left = memoryview(lines)
    while left:
        left = left[os.write(number, left) :]


def _sync_folder(folder: Path) -> None:
    """The file's name, too, is to survive a machine that loses power."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
