"""One optimiser step on a DeepSpeed engine, and the meter that it is read from."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch

from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import Corpus, IntArray, collate, worker_parts
from aligner_jobs.train.deepspeed_config import deepspeed_config
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.objectives import correction_loss_sum


def start_engine(model: torch.nn.Module, config: TrainConfig) -> Any:
    """A DeepSpeed engine around ``model``; joins the process group that Ray Train has made."""
    import deepspeed
    import deepspeed.ops

    # It would be compiled at start, and wants a compiler on every machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.correction.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        foreach=not config.use_gpu,
        fused=config.use_gpu,
    )
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(config)
    )
    return engine


def train_step(
    engine: Any,
    corpus: Corpus,
    rows: IntArray,
    *,
    rate: float,
    config: TrainConfig,
    group: Group,
) -> torch.Tensor:
    """Take one optimiser step on the global batch ``rows``; this worker's summed loss.

    The loss stays on its device: reading it at each step would make a GPU wait.
    """
    for parameters in engine.optimizer.param_groups:
        parameters["lr"] = rate
    # DeepSpeed takes the mean over passes and workers; we want the sum over all tokens of the
    # global batch, divided by their number.
    scale = config.passes_per_step * group.world_size / corpus.target_tokens(rows)
    total = torch.zeros((), device=group.device)
    for part in worker_parts(
        rows, passes=config.passes_per_step, world_size=group.world_size, rank=group.rank
    ):
        loss = correction_loss_sum(engine, collate(corpus, part), device=group.device)
        engine.backward(loss * scale)
        engine.step()
        total += loss.detach()
    return total


class Meter:
    """Loss and speed since the last reading, over all workers."""

    def __init__(self, group: Group) -> None:
        """Begin at zero."""
        self._group = group
        self._seconds = self._rate = 0.0
        self._targets = self._tokens = 0
        self._loss = torch.zeros((), device=group.device)

    @contextlib.contextmanager
    def step(self, corpus: Corpus, rows: IntArray, *, rate: float) -> Iterator[None]:
        """The block is one step on the global batch ``rows``."""
        began_s = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began_s
        self._targets += corpus.target_tokens(rows)
        self._tokens += int(corpus.lengths[rows].sum())
        self._rate = rate

    def add_loss(self, loss: torch.Tensor) -> None:
        """Add a summed loss of this worker; it stays on its device until it is read."""
        self._loss = self._loss + loss

    def read(self) -> dict[str, float]:
        """Mean loss per target token, tokens per second (padding not counted), last rate."""
        (loss,) = self._group.total(float(self._loss))
        metrics = {
            "loss": loss / max(1, self._targets),
            "tokens_per_s": self._tokens / self._seconds if self._seconds else 0.0,
            "learning_rate": self._rate,
        }
        self._reset()
        return metrics

    def _reset(self) -> None:
        self._loss = torch.zeros((), device=self._group.device)
        self._seconds = self._rate = 0.0
        self._targets = self._tokens = 0
