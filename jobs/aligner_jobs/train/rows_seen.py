"""Proof that each epoch trained on every row exactly once: a count and a checksum of row numbers.

Each worker adds the rows that it has itself put through the model. The checksum is a sum of hashes,
so that neither order nor number of workers matters, and a row seen twice cannot hide one not seen.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import distributed

from aligner.errors import TrainingError
from aligner_jobs.config.train import PhaseName
from aligner_jobs.train.corpus import IntArray
from aligner_jobs.train.heldout import Group


@dataclass(frozen=True, slots=True)
class EpochRows:
    """What one epoch has trained on so far, all workers together."""

    phase: PhaseName
    epoch: int
    rows: int = 0
    checksum: int = 0
    """Sum of the row numbers' hashes, modulo 2^64."""

    @property
    def fact(self) -> dict[str, str | int]:
        """For a manifest, where whole numbers must stay below 2^53."""
        return asdict(self) | {"checksum": f"{self.checksum:016x}"}


def checksum(rows: IntArray) -> int:
    """The sum of SplitMix64 over ``rows``, modulo 2^64."""
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return int((z ^ (z >> np.uint64(31))).sum(dtype=np.uint64))


class RowsSeen:
    """The epochs of a run, as one of its workers counts them."""

    def __init__(self, group: Group, before: Sequence[EpochRows] = ()) -> None:
        """Go on from ``before``, which a checkpoint held."""
        self._group = group
        self._known = {(one.phase, one.epoch): one for one in before}
        self._own: dict[tuple[PhaseName, int], tuple[int, int]] = {}

    def add(self, phase: PhaseName, epoch: int, rows: IntArray) -> None:
        """This worker has trained on ``rows``."""
        count, total = self._own.get((phase, epoch), (0, 0))
        self._own[phase, epoch] = count + len(rows), (total + checksum(rows)) % (1 << 64)

    def read(self) -> tuple[EpochRows, ...]:
        """All epochs so far, over all workers; every worker must call this."""
        for key in sorted(self._own):
            before = self._known.get(key, EpochRows(*key))
            rows, total = self._sum(*self._own[key])
            self._known[key] = replace(
                before, rows=before.rows + rows, checksum=(before.checksum + total) % (1 << 64)
            )
        self._own = {}
        return tuple(self._known.values())

    def require_each_once(self, phase: PhaseName, epoch: int, *, rows: int) -> None:
        """Every worker must call this when an epoch over ``rows`` rows has ended.

        Raises:
            TrainingError: A row was left out or came twice.
        """
        self.read()
        seen = self._known.get((phase, epoch), EpochRows(phase, epoch))
        if seen != EpochRows(phase, epoch, rows, checksum(np.arange(rows))):
            raise TrainingError(
                f"{phase} phase, epoch {epoch + 1}: not each of {rows} rows was trained on exactly "
                f"once, but {seen.rows} with checksum {seen.checksum:016x}; this is a mistake in "
                "the program: please report it, and begin anew with another out."
            )

    def _sum(self, rows: int, total: int) -> tuple[int, int]:
        # As two's complement, which wraps around like the checksum itself.
        signed = np.array([rows, total], dtype=np.uint64).astype(np.int64)
        values = torch.from_numpy(signed).to(self._group.device)
        if self._group.world_size > 1:
            distributed.all_reduce(values)
        summed = values.cpu().numpy().astype(np.uint64)
        return int(summed[0]), int(summed[1])
