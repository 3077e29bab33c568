"""What a run could not be told yet, kept on disk in order until its server is back.

One line of JSON per entry. An entry is taken out only after it was sent, so a program that dies
in between sends it again: everything that is kept here may be sent twice without a trace.
"""

import contextlib
import os
import shutil
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Final, Literal, assert_never

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from aligner.config import StrictModel
from aligner.manifest import Manifest
from aligner.tracking import Run

_ENTRIES: Final = "entries.jsonl"
_SENT: Final = "sent"
_FILES: Final = "files"
MAX_BYTES: Final = 256 * 2**20


class Metrics(StrictModel):
    """Numbers of one step."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    kind: Literal["metrics"] = "metrics"
    metrics: dict[str, float]
    step: int
    at_ms: int
    """When they were measured: the server knows by it what it has already."""


class Params(StrictModel):
    """Settings."""

    kind: Literal["params"] = "params"
    params: dict[str, Any]


class Tags(StrictModel):
    """Tags of the run."""

    kind: Literal["tags"] = "tags"
    tags: dict[str, str]


class Table(StrictModel):
    """Rows for people to look at."""

    kind: Literal["table"] = "table"
    name: str
    rows: list[dict[str, str | float]]


class Files(StrictModel):
    """A file, or a folder's files."""

    kind: Literal["files"] = "files"
    path: str
    """Where a copy of it stands."""
    folder: str | None


class DatasetUse(StrictModel):
    """A dataset that the run read or wrote."""

    kind: Literal["dataset"] = "dataset"
    manifest: Manifest
    uri: str
    context: str


Entry = Annotated[Metrics | Params | Tags | Table | Files | DatasetUse, Field(discriminator="kind")]
_ENTRY: Final[TypeAdapter[Entry]] = TypeAdapter(Entry)


def send(entry: Entry, run: Run) -> None:
    """Tell ``run``; raises what it raises."""
    match entry:
        case Metrics():
            run.log_metrics(entry.metrics, step=entry.step, at_ms=entry.at_ms)
        case Params():
            run.log_params(entry.params)
        case Tags():
            run.set_tags(entry.tags)
        case Table():
            run.log_table(entry.name, entry.rows)
        case Files():
            run.log_artifact(Path(entry.path), folder=entry.folder)
        case DatasetUse():
            run.log_dataset(entry.manifest, entry.uri, context=entry.context)
        case _:
            assert_never(entry)


class Outbox:
    """A queue in a folder of its own, which it removes when it is empty."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Take up what an earlier program left there; a broken last line is passed over."""
        self._folder, self._max_bytes = folder, max_bytes
        self._bytes = self._taken = 0
        self._waiting: deque[Entry] = deque()
        self.lost = 0
        """Entries for which there was no room."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._load()

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._waiting)

    @property
    def folder(self) -> Path:
        """Where they wait."""
        return self._folder

    def put(self, entry: Entry) -> None:
        """Keep ``entry``; one that finds no room, or a full disk, is counted as lost."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, Files):
                entry = self._copied(entry)
            line = entry.model_dump_json().encode() + b"\n"
            if self._bytes + len(line) > self._max_bytes:
                raise OSError("the outbox is full")
            with (self._folder / _ENTRIES).open("ab") as file:
                file.write(line)
        except OSError:
            self.lost += 1
            return
        self._bytes += len(line)
        self._waiting.append(entry)

    def first(self) -> Entry:
        """The oldest entry."""
        return self._waiting[0]

    def take_first(self) -> None:
        """Forget the oldest entry: it was sent."""
        self._waiting.popleft()
        self._taken += 1
        if not self._waiting:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._bytes = self._taken = 0
            return
        partial = self._folder / f"{_SENT}.partial"
        # On a full disk another program would send it again, which leaves no trace.
        with contextlib.suppress(OSError):
            # Whole or not at all: half a number would skip entries that nobody has sent.
            partial.write_text(str(self._taken), encoding="ascii")
            os.replace(partial, self._folder / _SENT)

    def _load(self) -> None:
        lines = (self._folder / _ENTRIES).read_bytes().splitlines(keepends=True)
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._taken = int((self._folder / _SENT).read_text(encoding="ascii"))
        self._bytes = sum(len(line) for line in lines)
        for line in lines[self._taken :]:
            # The program was killed, or the disk was full, while it wrote this one.
            with contextlib.suppress(ValidationError):
                self._waiting.append(_ENTRY.validate_json(line))

    def _copied(self, entry: Files) -> Files:
        """A copy of what it names, as the original may be gone or changed when it is sent."""
        source = Path(entry.path)
        size = sum(file.stat().st_size for file in _files_of(source))
        if self._bytes + size > self._max_bytes:
            raise OSError("the outbox is full")
        place = self._folder / _FILES / str(self._taken + len(self._waiting))
        target = place / source.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        self._bytes += size
        return entry.model_copy(update={"path": str(target)})


def _files_of(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
