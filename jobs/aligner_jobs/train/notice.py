"""Word from outside that training must be saved: the driver is to stop, a machine is taken away."""

import time
from enum import Enum
from typing import Any, Final

import ray
import torch
from ray import train as ray_train
from torch import distributed

from aligner_jobs.train.heldout import Group

_ASK_S: Final = 1.0
_LOOK_S: Final = 5.0
"""Ray lets all workers meet to tell them of a machine that is taken away: not at every step."""


class Wish(Enum):
    """What to do after a step."""

    NOTHING = 0
    SAVE = 1
    """A machine will be gone soon; Ray starts the workers again elsewhere."""
    STOP = 2
    """Save and end."""


class Notice:
    """Asked after every step, by all workers, who all hear the same."""

    def __init__(self, board: Any, *, group: Group) -> None:
        """Ask the driver's ``board`` in the first worker."""
        self._board, self._rank = board, group.rank
        # On the CPU: a GPU that is asked something must first finish what it has begun.
        alone = group.world_size == 1
        self._others = None if alone else distributed.new_group(backend="gloo")
        self._answer: Any = None
        self._asked_s = self._looked_s = time.monotonic()
        self._known: ray_train.PreemptionInfo | None = None

    def read(self) -> Wish:
        """What the outside wishes."""
        stop, look = (self._stop(), self._due()) if self._rank == 0 else (False, False)
        if self._others is not None:
            flags = torch.tensor([stop, look])
            distributed.broadcast(flags, src=0, group=self._others)
            stop, look = flags.tolist()
        if stop:
            return Wish.STOP
        return Wish.SAVE if look and self._is_leaving() else Wish.NOTHING

    def _stop(self) -> bool:
        """The last answer that has come; never waits for one."""
        if self._answer is None and time.monotonic() - self._asked_s >= _ASK_S:
            self._answer = self._board.stopping.remote()
            self._asked_s = time.monotonic()
        if self._answer is None or not ray.wait([self._answer], timeout=0)[0]:
            return False
        answer, self._answer = ray.get(self._answer), None
        return bool(answer)

    def _due(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return False
        self._looked_s = now_s
        return True

    def _is_leaving(self) -> bool:
        """Whether a machine is to be taken away that nobody has told of before."""
        known, self._known = self._known, ray_train.get_preemption_info()
        return self._known is not None and self._known != known
