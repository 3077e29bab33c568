import numpy as np
import pytest
import torch

from aligner.errors import TrainingError
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.rows_seen import EpochRows, RowsSeen, checksum

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))


def test_the_checksum_is_that_of_splitmix64() -> None:
    # The first two outputs of the published generator with seed 0.
    golden = 0x9E3779B97F4A7C15
    assert checksum(np.array([0])) == 0xE220A8397B1DCDAF
    assert checksum(np.array([golden]).astype(np.uint64).astype(np.int64)) == 0x6E789E6AA1B965F4


def test_order_and_shares_of_workers_do_not_matter() -> None:
    rows = np.random.default_rng(0).permutation(1000)
    parts = sum(checksum(part) for part in np.array_split(rows, 7))
    assert parts % (1 << 64) == checksum(np.arange(1000))


def test_an_epoch_over_every_row_is_accepted_across_a_checkpoint() -> None:
    seen = RowsSeen(ALONE)
    seen.add("warmup", 0, np.arange(0, 60))
    saved = seen.read()
    assert saved == (EpochRows("warmup", 0, 60, checksum(np.arange(60))),)
    resumed = RowsSeen(ALONE, saved)
    resumed.add("warmup", 0, np.arange(60, 100))
    resumed.require_each_once("warmup", 0, rows=100)
    assert resumed.read() == (EpochRows("warmup", 0, 100, checksum(np.arange(100))),)


@pytest.mark.parametrize("rows", [[0, 1, 3], [0, 1, 2, 2], [0, 1, 1, 3], []])
def test_a_row_left_out_or_seen_twice_ends_training(rows: list[int]) -> None:
    seen = RowsSeen(ALONE)
    seen.add("correction", 1, np.array(rows, dtype=np.int64))
    with pytest.raises(TrainingError, match=r"epoch 2: not each of 4 rows .* exactly once"):
        seen.require_each_once("correction", 1, rows=4)
