"""Files of a checkpoint that any number of workers can write and any other number can read.

A worker owns fragments: ranges of flattened parameters, with the optimizer's moments of the same
range. Each is kept under the parameter's name and the place where it begins. Who reads asks for
ranges of its own, and is given them out of whatever files hold them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aligner.errors import DataError

Kind = Literal["weight", "exp_avg", "exp_avg_sq"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_FILE_BYTES: Final = 1 << 30
"""About as much of a worker's state is copied to the CPU, and written, at a time."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A range of one flattened parameter that this worker's optimizer steps, in fp32."""

    name: str
    """Of the parameter."""
    start: int
    """Its first element's place in the parameter."""
    length: int
    """Elements, at least 1."""
    read: Callable[[Kind], torch.Tensor]
    """The range as it is now, flat."""
    write: Callable[[Kind, torch.Tensor], None]
    """Replace it."""


def write_fragments(
    folder: Path, fragments: Iterable[Fragment], *, rank: int, file_bytes: int = _FILE_BYTES
) -> None:
    """Write this worker's ``fragments``; file names hold ``rank``, so that no two collide."""
    for number, tensors in enumerate(_portions(fragments, file_bytes=file_bytes)):
        save_file(tensors, folder / f"state-{rank:05d}-{number:05d}.safetensors")


def read_fragments(folder: Path, fragments: Iterable[Fragment]) -> None:
    """Fill ``fragments`` from the files of all workers that wrote to ``folder``.

    Raises:
        DataError: A file is damaged, or something is missing.
    """
    with ExitStack() as stack:
        index = _Index(folder, stack)
        for fragment in fragments:
            for kind in KINDS:
                values = index.range(kind, fragment.name, fragment.start, fragment.length)
                fragment.write(kind, values)


def read_weights(folder: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Fill whole ``parameters``, by name, and leave the optimizer's moments where they are.

    Raises:
        DataError: A file is damaged, or something is missing.
    """
    with ExitStack() as stack:
        index = _Index(folder, stack)
        for name, parameter in parameters.items():
            values = index.range("weight", name, 0, parameter.numel())
            parameter.data.copy_(values.view_as(parameter))


def _portions(
    fragments: Iterable[Fragment], *, file_bytes: int
) -> Iterator[dict[str, torch.Tensor]]:
    tensors: dict[str, torch.Tensor] = {}
    size = 0
    for fragment in fragments:
        for kind in KINDS:
            value = fragment.read(kind)
            # A copy even where it is on the CPU already: it is a view of something far larger.
            tensors[f"{kind}:{fragment.start}:{fragment.name}"] = value.to("cpu", copy=True)
            size += value.nbytes
        if size >= file_bytes:
            yield tensors
            tensors, size = {}, 0
    if tensors:
        yield tensors


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stored range."""

    start: int
    end: int
    key: str
    file: Any


class _Index:
    """What lies where in the files of one checkpoint."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._pieces: dict[tuple[str, str], list[_Piece]] = {}
        for path in sorted(folder.glob("state-*.safetensors")):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError):
                raise DataError(f"{path}: is damaged; choose an older checkpoint.") from None
            for key in file.keys():  # noqa: SIM118 - it is no dict
                self._add(key, file)

    def _add(self, key: str, file: Any) -> None:
        kind, start, name = key.split(":", 2)
        (length,) = file.get_slice(key).get_shape()
        piece = _Piece(int(start), int(start) + length, key, file)
        self._pieces.setdefault((kind, name), []).append(piece)

    def range(self, kind: Kind, name: str, start: int, length: int) -> torch.Tensor:
        """The stored values of a range of the parameter ``name``."""
        first, last = start, start + length
        values = torch.empty(length)
        filled = 0
        for piece in self._pieces.get((kind, name), ()):
            begin, end = max(first, piece.start), min(last, piece.end)
            if begin < end:
                part = piece.file.get_slice(piece.key)[begin - piece.start : end - piece.start]
                values[begin - first : end - first] = part
                filled += end - begin
        if filled != length:
            raise DataError(f"{self._folder}: lacks a part of {name}; choose an older checkpoint.")
        return values
