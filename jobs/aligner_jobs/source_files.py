"""The files of a source: which there are, what is in them, and their rows one by one.

A place is a path or any URI that :func:`aligner.artefacts.resolve` knows; ``.gz`` and ``.zst`` are
unpacked on the way. No file is ever held whole.
"""

import glob
import io
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final, assert_never

import pyarrow as pa
import pyarrow.fs as pafs

from aligner.artefacts import resolve
from aligner.errors import DataError
from aligner_jobs import csv_files, json_files, parquet_files
from aligner_jobs.config.sources import FileFormat
from aligner_jobs.raw_rows import BadRow, Record

_FORMATS: Final[dict[str, FileFormat]] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_PACKED: Final = (".gz", ".zst")
_CHUNK_BYTES: Final = 1 << 20


def locate(path: str, format: FileFormat | None = None) -> list[str]:
    """The files that ``path`` names, sorted: itself, those of a folder, or a glob's matches.

    Of a folder these are the ones whose names tell their format, or all where ``format`` is given;
    never those whose names begin with a dot or an underscore. ``*`` stays within a folder,
    ``**`` goes through any number of them.

    Raises:
        DataError: There are none, or the place cannot be listed.
    """
    filesystem, inner = resolve(path)
    try:
        info = filesystem.get_file_info(inner)
        if info.type == pafs.FileType.File:
            return [path]
        if info.type == pafs.FileType.Directory:
            found = [file for file in _files(filesystem, inner) if _wanted(file, format)]
        else:
            found = _matches(filesystem, inner)
    except OSError as exc:
        raise DataError(f"{path}: cannot be listed ({_first_line(exc)}); check it.") from None
    if not found:
        raise DataError(
            f"{path}: there is no such file, or no {', '.join(_FORMATS)} in the folder; correct "
            "the source's path, or say what its files are by format."
        )
    prefix = path.removesuffix(inner) if "://" in path else ""
    return sorted(prefix + file for file in found)


def read_records(path: str, format: FileFormat | None = None) -> Iterator[Record | BadRow]:
    """All rows of one file, in order. ``format`` is told by the file's name where it is not given.

    Raises:
        DataError: The format is unknown, or the file cannot be read to its end.
    """
    known = format or _format_of(path)
    if known is None:
        raise DataError(
            f"{path}: its name does not tell its format; "
            "set the source's format to json, csv, tsv or parquet."
        )
    try:
        yield from _records(path, known)
    except (OSError, pa.ArrowInvalid) as exc:
        raise DataError(f"{path}: cannot be read ({_first_line(exc)}); check the file.") from None


def _records(path: str, format: FileFormat) -> Iterator[Record | BadRow]:
    filesystem, inner = resolve(path)
    if format == "parquet":
        yield from parquet_files.read_rows(filesystem, inner, path)
        return
    with filesystem.open_input_stream(inner, compression="detect") as raw:
        stream = io.BufferedReader(raw, _CHUNK_BYTES)
        match format:
            case "json":
                yield from json_files.read_objects(stream, path)
            case "csv":
                yield from csv_files.read_rows(stream, path)
            case "tsv":
                yield from csv_files.read_rows(stream, path, delimiter="\t")
            case unreachable:
                assert_never(unreachable)


def _format_of(path: str) -> FileFormat | None:
    name = PurePosixPath(path)
    return _FORMATS.get((name.with_suffix("") if name.suffix in _PACKED else name).suffix)


def _wanted(file: str, format: FileFormat | None) -> bool:
    hidden = PurePosixPath(file).name.startswith((".", "_"))
    return not hidden and (format is not None or _format_of(file) is not None)


def _files(filesystem: pafs.FileSystem, folder: str, *, recursive: bool = False) -> list[str]:
    selector = pafs.FileSelector(folder, recursive=recursive, allow_not_found=True)
    entries = filesystem.get_file_info(selector)
    return [entry.path for entry in entries if entry.type == pafs.FileType.File]


def _matches(filesystem: pafs.FileSystem, pattern: str) -> list[str]:
    """The files that the glob ``pattern`` names."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return [file for file in glob.glob(pattern, recursive=True) if Path(file).is_file()]
    parts = pattern.split("/")
    depth = next((at for at, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    folder, rest = "/".join(parts[:depth]), parts[depth:]
    if not folder:
        return []
    below = _files(filesystem, folder, recursive=len(rest) > 1 or "**" in rest)
    return [file for file in below if _fits(file.split("/")[depth:], rest)]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _first_line(exc: Exception) -> str:
    # Arrow's messages end in a stack of its own; the first line is the sentence.
    return str(exc).partition("\n")[0].rstrip(".") or type(exc).__name__
