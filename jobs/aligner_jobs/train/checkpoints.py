"""Resumable states: what each worker owns, its random state, and the place in the data.

Written to this machine first, which all workers wait for, and brought to the run's storage in the
background. Ray Train keeps the best and the last of them. Any number of workers, with any ZeRO
stage, can go on from a checkpoint of any other.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from ray import train as ray_train
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aligner.errors import DataError, TrainingError
from aligner_jobs.config.train import PhaseName
from aligner_jobs.train.fragments import (
    owned_fragments,
    owns_all,
    publish_weights,
    set_steps_taken,
    steps_taken,
)
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.rows_seen import EpochRows
from aligner_jobs.train.state_files import read_fragments, write_fragments
from aligner_jobs.train.storage import Storage, new_name, place_of

SCORE: Final = "heldout_loss"
"""Metric by which Ray Train tells better checkpoints from worse."""

_UNKNOWN: Final = 1e30
"""Worse than any: Ray complains of a missing score, and cannot read back one that is no number."""

_ABOUT: Final = "about.json"


@dataclass(frozen=True, slots=True)
class Position:
    """Where training stands: the next batch to be trained on."""

    phase: PhaseName
    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    """Optimiser steps of the phase that are done."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds besides the states of model and optimizer."""

    position: Position
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those known so far."""
    rows: tuple[EpochRows, ...] = ()
    """What has been trained on, by epoch."""


class Checkpoints:
    """Those of one run, for one of its workers; all workers call each method together."""

    def __init__(self, engine: Any, *, group: Group, storage: Storage) -> None:
        """Of the states of ``engine``."""
        self._engine, self._group, self._storage = engine, group, storage

    def save(
        self,
        saved: Saved,
        *,
        score: float | None = None,
        request: ray_train.ValidationTaskConfig | None = None,
    ) -> None:
        """Write a checkpoint and hand it to Ray Train; it is brought away in the background.

        ``score`` is the held-out loss, where these very weights were measured; ``request`` has
        them measured beside training.

        Raises:
            TrainingError: A worker could not write its part.
        """
        problems = self._group.gather(self._write(saved))
        if (problem := next(filter(None, problems), None)) is not None:
            raise TrainingError(
                f"{self._storage.path}: a checkpoint could not be written ({problem}); see to the "
                "place and run the same command again to go on from the last one."
            )
        position = saved.position
        self._storage.hand_over(
            new_name(position.phase, position.step),
            {SCORE: _UNKNOWN if score is None else score},
            request=request,
        )

    def restore(self) -> Saved | None:
        """Load the furthest checkpoint that is whole; ``None`` where there is no checkpoint yet.

        Raises:
            TrainingError: There are some, and all are damaged.
        """
        names: list[str] = self._group.gather(self._storage.names())[0]
        problem: str | None = None
        for name in names:
            problems = self._group.gather(self._load(name))
            if (problem := next(filter(None, problems), None)) is None:
                return self._accept(name)
        if problem is not None:
            raise TrainingError(
                f"{self._storage.path}: no checkpoint can be read ({problem}); remove the "
                "folder, or choose another out, to begin anew."
            )
        return None

    def go_back(self, phase: PhaseName, step: int) -> bool:
        """Take the weights of the checkpoint of ``step``; whether there is one.

        Raises:
            TrainingError: It is damaged.
        """
        # Ray answers when the last upload is over.
        listed = sorted(self._storage.listed())
        names = [name for name in listed if name.startswith(place_of(phase, step))]
        if not names:
            return False
        problems = self._group.gather(self._load(names[-1]))
        if (problem := next(filter(None, problems), None)) is not None:
            raise TrainingError(
                f"{self._storage.path}/{names[-1]}: cannot be read ({problem}); set "
                "early_stop=null to train to the end."
            )
        set_steps_taken(self._engine, self._about["optimizer_steps"])
        publish_weights(self._engine)
        return True

    def _write(self, saved: Saved) -> str | None:
        """Write this worker's part; what went wrong, if anything did."""
        rank = self._group.rank
        try:
            folder = self._storage.prepare()
            if rank == 0 or not owns_all(self._engine):
                write_fragments(folder, owned_fragments(self._engine), rank=rank)
            save_file(_random_state(), folder / _random_file(rank))
            if rank == 0:
                about = asdict(saved) | {"optimizer_steps": steps_taken(self._engine)}
                (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        except (OSError, SafetensorError) as exc:
            return str(exc)
        return None

    def _load(self, name: str) -> str | None:
        """Read this worker's part; what went wrong, if anything did."""
        try:
            with self._storage.checkpoint(name).as_directory() as folder:
                read_fragments(Path(folder), owned_fragments(self._engine))
                _set_random_state(Path(folder) / _random_file(self._group.rank))
                self._about = json.loads((Path(folder) / _ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError, DataError) as exc:
            return str(exc)
        return None

    def _accept(self, name: str) -> Saved:
        """Put in force what all workers have read."""
        set_steps_taken(self._engine, self._about["optimizer_steps"])
        publish_weights(self._engine)
        listed = self._storage.listed()
        if self._group.rank == 0:
            self._storage.sweep({name, *listed})
        return Saved(
            position=Position(**self._about["position"]),
            metrics=self._about["metrics"],
            rows=tuple(EpochRows(**one) for one in self._about["rows"]),
        )


def _random_file(rank: int) -> str:
    return f"random-{rank:05d}.safetensors"


def _random_state() -> dict[str, torch.Tensor]:
    """Of torch alone: the order of rows depends on seed and epoch, not on a generator's state."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_state(path: Path) -> None:
    """A worker that is new to the run keeps the state that it started with."""
    if not path.exists():
        return
    states = load_file(path)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
