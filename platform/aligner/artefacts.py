"""Artefacts on disk: a folder that appears whole, with its manifest, or not at all.

Local folders and ``s3://`` alike go through :mod:`pyarrow.fs`. A writer fills a local staging
folder; :meth:`Staging.publish` moves it into place, the manifest last, so that a killed job
leaves nothing that a reader would take for an artefact.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from aligner.errors import DataError
from aligner.manifest import FILE_NAME, FileEntry, Kind, Manifest

_CHUNK_BYTES = 1 << 20
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
            _upload(self.path, filesystem, target, manifest=text)
        return manifest


@contextmanager
def staging(uri: str) -> Iterator[Staging]:
    """Yield a :class:`Staging` for ``uri``; what was not published is removed at the end.

    Raises:
        DataError: Something stands at ``uri`` already.
    """
    filesystem, target = resolve(uri)
    if exists(uri):
        raise DataError(f"{uri}: something is there already; choose another folder or remove it.")
    local = isinstance(filesystem, pafs.LocalFileSystem)
    parent = Path(target).parent if local else Path(os.environ.get("TMPDIR", "/tmp"))
    path = parent / f".{Path(target).name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        path.mkdir(parents=True)
    except OSError as exc:
        raise DataError(f"{uri}: cannot be written ({exc.strerror}); choose another.") from None
    try:
        yield Staging(path=path, uri=uri)
    finally:
        shutil.rmtree(path, ignore_errors=True)


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
    """The filesystem and the path on it; ``AWS_ENDPOINT_URL`` is honoured for ``s3://``."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        if uri.startswith("s3://") and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
            return pafs.S3FileSystem(endpoint_override=endpoint), uri.removeprefix("s3://")
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as exc:
        raise DataError(f"{uri}: cannot be opened ({type(exc).__name__}); check the URI.") from None
    return filesystem, path


def exists(uri: str) -> bool:
    """Whether an artefact, or anything else that is not an empty folder, stands at ``uri``.

    What is left of an upload that broke off does not count.
    """
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        return False
    if info.type == pafs.FileType.Directory:
        names = {entry.base_name for entry in filesystem.get_file_info(pafs.FileSelector(path))}
        return bool(names) and (FILE_NAME in names or _UPLOADING not in names)
    return True


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
