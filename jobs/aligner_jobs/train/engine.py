"""One optimiser step on a DeepSpeed engine, and the meter that it is read from."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate, passes_of
from aligner_jobs.train.corpus import Corpus, IntArray
from aligner_jobs.train.deepspeed_config import deepspeed_config
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.objectives import Loss


def start_engine(model: torch.nn.Module, config: TrainConfig) -> Any:
    """A DeepSpeed engine around ``model``; joins the process group that Ray Train has made."""
    import deepspeed
    import deepspeed.ops

    # It would be compiled at start, and wants a compiler on every machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        # Each step sets its own. DeepSpeed takes a step of its own at start, which must do nothing.
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        # One pass over all states, on a GPU as on a CPU, wherever they lie.
        fused=True,
    )
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(config)
    )
    # That one step with zero gradients (ZeRO off, bf16) would count in the moments' correction.
    for state in optimizer.state.values():
        state["step"].zero_()
    return engine


def train_step(
    engine: Any,
    corpus: Corpus,
    rows: IntArray,
    *,
    loss: Loss,
    rate: float,
    config: TrainConfig,
    group: Group,
    heard: Callable[[IntArray], None] = lambda rows: None,
) -> torch.Tensor:
    """Take one optimiser step on the global batch ``rows``; this worker's summed loss.

    The loss stays on its device: reading it at each step would make a GPU wait. ``heard`` is
    told which rows this worker has put through the model, pass by pass.
    """
    for parameters in engine.optimizer.param_groups:
        parameters["lr"] = rate
    # DeepSpeed takes the mean over workers; we want the sum over the global batch, divided once.
    scale = group.world_size / loss.weight(corpus, rows)
    total = torch.zeros((), device=group.device)
    passes = passes_of(corpus, rows, config=config, world_size=group.world_size)
    for number, parts in enumerate(passes, start=1):
        batch = collate(corpus, parts[group.rank], packed=config.packing)
        engine.set_gradient_accumulation_boundary(number == len(passes))
        part = loss.total(engine, batch, device=group.device)
        engine.backward(part * scale)
        engine.step()
        heard(parts[group.rank])
        total += part.detach()
    return total


class Meter:
    """Loss and speed since the last reading, over all workers."""

    def __init__(self, group: Group) -> None:
        """Begin at zero."""
        self._group = group
        self._seconds = self._rate = 0.0
        self._weight = self._tokens = self._targets = 0
        self._loss = torch.zeros((), device=group.device)

    @contextlib.contextmanager
    def step(self, corpus: Corpus, rows: IntArray, *, loss: Loss, rate: float) -> Iterator[None]:
        """The block is one step on the global batch ``rows``."""
        began_s = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began_s
        self._weight += loss.weight(corpus, rows)
        self._targets += corpus.target_tokens(rows)
        self._tokens += corpus.tokens(rows)
        self._rate = rate

    def add_loss(self, loss: torch.Tensor) -> None:
        """Add a summed loss of this worker; it stays on its device until it is read."""
        self._loss = self._loss + loss

    def read(self) -> dict[str, float]:
        """Mean loss; tokens per second, padding not counted, and those with loss; last rate."""
        (loss,) = self._group.total(float(self._loss))
        metrics = {
            "loss": loss / max(1, self._weight),
            "tokens_per_s": self._tokens / self._seconds if self._seconds else 0.0,
            "target_tokens_per_s": self._targets / self._seconds if self._seconds else 0.0,
            "learning_rate": self._rate,
        }
        self._reset()
        return metrics

    def _reset(self) -> None:
        self._loss = torch.zeros((), device=self._group.device)
        self._seconds = self._rate = 0.0
        self._weight = self._tokens = self._targets = 0
