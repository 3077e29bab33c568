"""The loss on held-out rows. All workers take part.

Every worker makes the same number of calls to the model, with made-up input where it has no
rows left: under ZeRO-3 a call that one worker misses would leave the others waiting.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed

from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate, passes_of
from aligner_jobs.train.corpus import Corpus
from aligner_jobs.train.objectives import Loss


@dataclass(frozen=True, slots=True)
class Group:
    """This worker among all."""

    rank: int
    world_size: int
    device: torch.device

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over all workers."""
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            distributed.all_reduce(values)
        return [float(value) for value in values.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Each worker's ``value``, by rank; it is pickled, so keep it small."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values


def heldout_loss(
    engine: Any, corpus: Corpus, *, loss: Loss, config: TrainConfig, group: Group
) -> float:
    """Mean loss over ``corpus``; NaN for no rows."""
    everything = np.arange(len(corpus))
    if not len(everything):
        return float("nan")
    engine.eval()
    total = 0.0
    with torch.no_grad():
        for parts in passes_of(corpus, everything, config=config, world_size=group.world_size):
            batch = collate(corpus, parts[group.rank], packed=config.packing)
            total += float(loss.total(engine, batch, device=group.device))
    engine.train()
    return group.total(total)[0] / loss.weight(corpus, everything)
