"""Saving and restoring by one worker, with Ray Train's part done at once."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
from torch import nn

from aligner.errors import TrainingError
from aligner_jobs.train.checkpoints import SCORE, Checkpoints, Position, Saved
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.rows_seen import EpochRows
from aligner_jobs.train.storage import Storage

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))


class AtOnce(Storage):
    """Brings checkpoints away at once, and lists all of them."""

    def __init__(self, path: Path) -> None:
        super().__init__(pafs.LocalFileSystem(), str(path), rank=0)
        self.scores: dict[str, float] = {}

    def hand_over(self, name: str, metrics: Mapping[str, float], *, request: Any = None) -> None:
        self.scores[name] = metrics[SCORE]
        self.upload(None, name)

    def listed(self) -> set[str]:
        return set(self.scores)


class Trained:
    """A model whose optimizer takes steps, as an engine without ZeRO shows it."""

    def __init__(self, storage: Storage, *, size: int = 8) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(size, size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)
        engine = SimpleNamespace(
            module=self.model,
            optimizer=self.optimizer,
            basic_optimizer=self.optimizer,
            zero_optimization_stage=lambda: 0,
        )
        self.checkpoints = Checkpoints(engine, group=ALONE, storage=storage)

    def step(self, steps: int) -> float:
        """The loss after ``steps`` more."""
        loss = torch.zeros(())
        for _ in range(steps):
            loss = (self.model(torch.ones(self.model.in_features)) ** 2).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()


def at(step: int) -> Saved:
    return Saved(
        Position("correction", epoch=1, batch=step, step=step),
        {"heldout_loss": 1.5},
        (EpochRows("warmup", 0, 10, 2**64 - 1),),
    )


@pytest.fixture
def storage(tmp_path: Path) -> AtOnce:
    return AtOnce(tmp_path)


def folder(storage: Storage, step: int) -> Path:
    (name,) = (name for name in storage.names() if f"-{step:07d}-" in name)
    return Path(storage.path, name)


def test_nothing_is_restored_where_nothing_was_saved(storage: AtOnce) -> None:
    assert Trained(storage).checkpoints.restore() is None


def test_training_goes_on_exactly_where_it_was(storage: AtOnce) -> None:
    before = Trained(storage)
    before.step(3)
    before.checkpoints.save(at(3), score=0.7)
    drawn, expected = torch.rand(4), before.step(5)
    after = Trained(storage)
    after.step(1)
    assert after.checkpoints.restore() == at(3)
    torch.testing.assert_close(torch.rand(4), drawn, rtol=0, atol=0)
    assert after.step(5) == expected
    assert list(storage.scores.values()) == [0.7]


def test_the_weights_of_an_earlier_step_can_be_taken_again(storage: AtOnce) -> None:
    model = Trained(storage)
    assert not model.checkpoints.go_back("correction", 2)
    weights = []
    for step in (2, 4):
        model.step(2)
        model.checkpoints.save(at(step))
        weights.append(model.model.weight.detach().clone())
    assert model.checkpoints.go_back("correction", 2)
    assert torch.equal(model.model.weight, weights[0])
    assert not torch.equal(*weights)
    (state,) = folder(storage, 2).glob("state-*")
    state.unlink()
    with pytest.raises(TrainingError, match="set early_stop=null"):
        model.checkpoints.go_back("correction", 2)


def test_one_that_was_not_measured_is_worse_than_any_that_was(storage: AtOnce) -> None:
    Trained(storage).checkpoints.save(at(3))
    assert list(storage.scores.values()) == [1e30]


@pytest.mark.parametrize("harm", ["cut", "lost", "no place"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(storage: AtOnce, harm: str) -> None:
    model = Trained(storage)
    for step in (2, 4):
        model.step(2)
        model.checkpoints.save(at(step))
    (state,) = folder(storage, 4).glob("state-*")
    match harm:
        case "cut":
            state.write_bytes(state.read_bytes()[:-1])
        case "lost":
            state.unlink()
        case _:
            (folder(storage, 4) / "about.json").write_text("{")
    assert Trained(storage).checkpoints.restore() == at(2)


def test_a_run_whose_checkpoints_are_all_damaged_says_so(storage: AtOnce) -> None:
    Trained(storage).checkpoints.save(at(2))
    (folder(storage, 2) / "about.json").unlink()
    with pytest.raises(TrainingError, match=r"no checkpoint can be read .*; remove the folder"):
        Trained(storage).checkpoints.restore()


def test_what_broke_off_is_swept_once_there_is_something_better(storage: AtOnce) -> None:
    Trained(storage).checkpoints.save(at(2))
    torn = Path(storage.path, "correction-0000004-aaaaaaaa")
    torn.mkdir()
    assert Trained(storage).checkpoints.restore() == at(2)
    assert not torn.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB; only root may have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    # Lazily: somebody who looks through all disks may have it open at this moment.
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_ends_training_with_a_sentence_and_the_last_one_stays(
    small_disk: Path,
) -> None:
    storage = AtOnce(small_disk)
    model: Any = Trained(storage, size=100)
    model.step(2)
    model.checkpoints.save(at(2))
    model.step(2)
    with pytest.raises(TrainingError, match=r"could not be written \(.*No space left.*\); see to"):
        model.checkpoints.save(at(4))
    assert Trained(storage, size=100).checkpoints.restore() == at(2)
