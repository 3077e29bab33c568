import itertools
from pathlib import Path

import pytest
import torch

from aligner.errors import DataError
from aligner_jobs.train.state_files import KINDS, Fragment, Kind, read_fragments, write_fragments

SIZES = {"embed": 23, "layers.0.norm": 5, "head": 40}


def parts(workers: int, values: dict[tuple[str, Kind], torch.Tensor]) -> list[list[Fragment]]:
    """``values``, each parameter cut evenly, as the fragments of each of ``workers``."""
    fragments: list[list[Fragment]] = [[] for _ in range(workers)]
    for name, size in SIZES.items():
        cuts = [size * n // workers for n in range(workers + 1)]
        for rank, (begin, end) in enumerate(itertools.pairwise(cuts)):
            if begin < end:
                fragments[rank].append(fragment(name, begin, end, values))
    return fragments


def fragment(
    name: str, begin: int, end: int, values: dict[tuple[str, Kind], torch.Tensor]
) -> Fragment:
    def write(kind: Kind, part: torch.Tensor) -> None:
        values[name, kind][begin:end] = part

    return Fragment(
        name, begin, end - begin, read=lambda kind: values[name, kind][begin:end], write=write
    )


def everything(fill: float | None = None) -> dict[tuple[str, Kind], torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        (name, kind): torch.randn(size, generator=draw) if fill is None else torch.zeros(size)
        for name, size in SIZES.items()
        for kind in KINDS
    }


def write(folder: Path, workers: int) -> dict[tuple[str, Kind], torch.Tensor]:
    values = everything()
    for rank, fragments in enumerate(parts(workers, values)):
        write_fragments(folder, fragments, rank=rank, file_bytes=100)
    return values


@pytest.mark.parametrize(("writers", "readers"), [(1, 1), (2, 1), (1, 4), (4, 3), (3, 7)])
def test_what_some_workers_write_any_number_reads(
    tmp_path: Path, writers: int, readers: int
) -> None:
    values = write(tmp_path, writers)
    found = everything(fill=0.0)
    for fragments in parts(readers, found):
        read_fragments(tmp_path, fragments)
    for key, value in values.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)


def test_a_file_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, 2)
    victim = sorted(tmp_path.glob("state-00001-*"))[0]
    victim.write_bytes(victim.read_bytes()[:-3])
    with pytest.raises(DataError, match=rf"{victim.name}: is damaged"):
        read_fragments(tmp_path, parts(1, everything(fill=0.0))[0])


def test_a_file_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, 2)
    sorted(tmp_path.glob("state-00001-*"))[0].unlink()
    with pytest.raises(DataError, match="lacks a part of"):
        read_fragments(tmp_path, parts(1, everything(fill=0.0))[0])
