"""Resumable states: DeepSpeed's files, each worker's random state, and the place in the data."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from ray import train as ray_train

from aligner.errors import TrainingError
from aligner_jobs.config.train import PhaseName
from aligner_jobs.train.heldout import Group

_TAG: Final = "state"
_POSITION: Final = "position.json"


@dataclass(frozen=True, slots=True)
class Position:
    """Where training stands: the next batch to be trained on."""

    phase: PhaseName
    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    """Optimiser steps of the phase that are done."""


def save(engine: Any, position: Position, *, metrics: Mapping[str, float], group: Group) -> None:
    """Report a checkpoint to Ray Train; every worker must call this at the same position.

    Each worker hands in its own folder, Ray puts them together in the run's storage.
    ``metrics`` are those known so far; they come back with the position.
    """
    rank, world_size = group.rank, group.world_size
    with tempfile.TemporaryDirectory(prefix="aligner-checkpoint-") as name:
        folder = Path(name)
        # DeepSpeed makes this folder on the first worker only, and each has its own.
        (folder / _TAG).mkdir()
        engine.save_checkpoint(str(folder), tag=_TAG)
        torch.save(_random_state(), folder / f"random-{rank}.pt")
        if rank == 0:
            about = {
                "position": asdict(position),
                "world_size": world_size,
                "metrics": dict(metrics),
            }
            (folder / _POSITION).write_text(json.dumps(about), encoding="utf-8")
        ray_train.report(
            {"phase": position.phase, "step": position.step},
            checkpoint=ray_train.Checkpoint.from_directory(name),
            # A folder left by a killed upload is filled again under the same name; another
            # number of workers must not mix its files in.
            checkpoint_dir_name=f"{position.phase}-{position.step:07d}-of-{world_size}",
        )


def restore(
    engine: Any, checkpoint: ray_train.Checkpoint, *, group: Group
) -> tuple[Position, dict[str, float]]:
    """Load ``checkpoint`` into ``engine`` and this process; where it stood, and its metrics.

    Raises:
        TrainingError: Another number of workers saved it.
    """
    with checkpoint.as_directory() as name:
        folder = Path(name)
        about = json.loads((folder / _POSITION).read_text(encoding="utf-8"))
        if about["world_size"] != group.world_size:
            raise TrainingError(
                f"{checkpoint.path}: was saved by {about['world_size']} workers and cannot be "
                f"resumed by {group.world_size}; set num_workers={about['world_size']}, "
                f"or choose another out to begin anew."
            )
        engine.load_checkpoint(str(folder), tag=_TAG)
        _set_random_state(folder / f"random-{group.rank}.pt")
    return Position(**about["position"]), dict(about["metrics"])


def _random_state() -> dict[str, Any]:
    """Of torch alone: the order of rows depends on seed and epoch, not on a generator's state."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
