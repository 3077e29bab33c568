"""Artefacts on disk: a folder that appears whole, with its manifest, or not at all.

Local folders and ``s3://`` alike go through :mod:`pyarrow.fs`. A writer fills a local staging
folder; :meth:`Staging.publish` moves it into place, the manifest last, so that a killed job
leaves nothing that a reader would take for an artefact.
"""

import contextlib
import fcntl
import glob
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs as pafs

from aligner.errors import DataError
from aligner.manifest import FILE_NAME, FileEntry, Kind, Manifest

_CHUNK_BYTES = 1 << 20
_S3_ATTEMPTS = 11
"""Of one request. The pauses between them begin at 25 ms and double: 51 s in all, enough for a
server that is started again. The other strategy of Arrow gives up as soon as many requests fail at
the same time."""
_UPLOADING = "upload-under-way"
"""Name of an object that is there while an upload goes on. Without a manifest beside it the upload
broke off and the next one replaces it; files of somebody else are never replaced."""


@dataclass(frozen=True, slots=True)
class Staging:
    """A private folder beside the destination, to be filled and published."""

    path: Path
    uri: str

    def publish(self, **fields: Any) -> Manifest:
        """Hash the files, write the manifest and move all to the destination.

        ``fields`` are those of :class:`Manifest` without ``files``.
        """
        manifest = Manifest(files=_hash_files(self.path), **fields)
        text = manifest.model_dump_json(indent=2) + "\n"
        filesystem, target = resolve(self.uri)
        if isinstance(filesystem, pafs.LocalFileSystem):
            (self.path / FILE_NAME).write_text(text, encoding="utf-8")
            os.replace(self.path, target)
        else:
            with _sentences(self.uri, "written"):
                _upload(self.path, filesystem, target, manifest=text)
        return manifest


@contextmanager
def staging(uri: str) -> Iterator[Staging]:
    """Yield a :class:`Staging` for ``uri``; what was not published is removed at the end.

    What a writer left that was killed before its end is removed at the start.

    Raises:
        DataError: Something stands at ``uri`` already, or nothing can be written there.
    """
    filesystem, target = resolve(uri)
    if exists(uri):
        raise DataError(f"{uri}: something is there already; choose another folder or remove it.")
    local = isinstance(filesystem, pafs.LocalFileSystem)
    parent = Path(target).parent if local else Path(os.environ.get("TMPDIR", "/tmp"))
    prefix = f".{Path(target).name}.partial-"
    _sweep(parent, prefix)
    number = uuid.uuid4().hex[:8]
    # Others sweep what bears a staging folder's name and is not held: it is held before it has one.
    new, path = parent / f".{number}.new", parent / f"{prefix}{number}"
    with _sentences(uri, "written"):
        new.mkdir(parents=True)
    try:
        with _held(new):
            with _sentences(uri, "written"):
                new.rename(path)
                if not local:
                    _try_to_write(filesystem, target)
            yield Staging(path=path, uri=uri)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the folders of killed writers: those that nobody holds any more."""
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        with _held(left) as alone:
            if alone:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold ``folder`` as long as this process lives; whether nobody else does, as far as is known.

    The kernel lets go of a killed process's locks. Where there are no locks, as on some network
    file systems, all folders count as held.
    """
    with contextlib.ExitStack() as opened:
        try:
            number = os.open(folder, os.O_RDONLY)
            opened.callback(os.close, number)
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        yield alone


@contextmanager
def _sentences(uri: str, what: Literal["read", "written"]) -> Iterator[None]:
    """Turn what goes wrong at ``uri`` into one sentence."""
    try:
        yield
    except OSError as exc:
        aws = re.search(r"AWS Error (\w+)", str(exc))
        reason = aws[1].lower() if aws else exc.strerror or type(exc).__name__
        raise DataError(
            f"{uri}: cannot be {what} ({reason}); choose another place or see to this one."
        ) from None


def _try_to_write(filesystem: pafs.FileSystem, target: str) -> None:
    """Raise :class:`OSError` now rather than after hours of work."""
    mark = f"{target}/{_UPLOADING}"
    broke_off = filesystem.get_file_info(mark).type == pafs.FileType.File
    _write(filesystem, mark, b"")
    if not broke_off:
        filesystem.delete_file(mark)


def _upload(folder: Path, filesystem: pafs.FileSystem, target: str, *, manifest: str) -> None:
    """Copy ``folder`` to the empty ``target``, or in the place of an upload that broke off."""
    mark = f"{target}/{_UPLOADING}"
    if filesystem.get_file_info(mark).type == pafs.FileType.File:
        filesystem.delete_dir_contents(target)
    _write(filesystem, mark, b"")
    pafs.copy_files(str(folder), target, pafs.LocalFileSystem(), filesystem)
    _write(filesystem, f"{target}/{FILE_NAME}", manifest.encode())
    filesystem.delete_file(mark)


def _write(filesystem: pafs.FileSystem, path: str, content: bytes) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path on it; ``AWS_ENDPOINT_URL`` is honoured for ``s3://``.

    Requests to S3 are repeated for 50 seconds before they fail.
    """
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        if uri.startswith("s3://"):
            path = uri.removeprefix("s3://")
            return _s3(bucket=path.partition("/")[0]), path
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as exc:
        raise DataError(f"{uri}: cannot be opened ({type(exc).__name__}); check the URI.") from None
    return filesystem, path


def _s3(*, bucket: str) -> pafs.S3FileSystem:
    retries = pafs.AwsDefaultS3RetryStrategy(max_attempts=_S3_ATTEMPTS)
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        return pafs.S3FileSystem(endpoint_override=endpoint, retry_strategy=retries)
    return pafs.S3FileSystem(region=pafs.resolve_s3_region(bucket), retry_strategy=retries)


def exists(uri: str) -> bool:
    """Whether an artefact, or anything else that is not an empty folder, stands at ``uri``.

    What is left of an upload that broke off does not count.

    Raises:
        DataError: Nobody can tell, for want of a key, say.
    """
    filesystem, path = resolve(uri)
    with _sentences(uri, "read"):
        info = filesystem.get_file_info(path)
        if info.type != pafs.FileType.Directory:
            return bool(info.type != pafs.FileType.NotFound)
        names = {entry.base_name for entry in filesystem.get_file_info(pafs.FileSelector(path))}
    return bool(names) and (FILE_NAME in names or _UPLOADING not in names)


def read_manifest(uri: str, *, kind: Kind) -> Manifest:
    """Read the manifest of the artefact at ``uri``.

    Raises:
        DataError: There is none, it is broken, or it is of another kind.
    """
    filesystem, path = resolve(uri)
    try:
        with filesystem.open_input_stream(f"{path}/{FILE_NAME}") as stream:
            text = stream.read()
    except OSError:
        raise DataError(
            f"{uri}: no {kind} there ({FILE_NAME} is missing); check the path."
        ) from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValueError:
        raise DataError(f"{uri}/{FILE_NAME}: is broken; build the {kind} again.") from None
    if manifest.kind != kind:
        raise DataError(f"{uri}: is a {manifest.kind}; {article(kind)} is needed here.")
    return manifest


def article(kind: Kind) -> str:
    """``kind`` with its indefinite article."""
    return f"an {kind}" if kind == "export" else f"a {kind}"


def verify(directory: Path, manifest: Manifest) -> None:
    """Compare every file of a local artefact with the manifest's hashes.

    Raises:
        DataError: A file is missing or differs.
    """
    for name, entry in manifest.files.items():
        try:
            same = _hash_file(directory / name) == entry
        except OSError:
            raise DataError(f"{directory / name}: is missing; fetch the artefact again.") from None
        if not same:
            raise DataError(f"{directory / name}: differs from its manifest; fetch it again.")


def _hash_files(directory: Path) -> dict[str, FileEntry]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): _hash_file(path) for path in files}


def _hash_file(path: Path) -> FileEntry:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest.hexdigest())
