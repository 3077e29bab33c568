"""Evaluating checkpoints beside training: Ray Train's asynchronous validation, and its two ends.

The workers write a checkpoint and train on; Ray Train starts a task that loads its weights into a
model of its own, evaluates that, and tells the driver.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train as ray_train
from torch import nn

from aligner.adapters.hf_tokenizer import open_files
from aligner_jobs.config.measuring import Beside
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.train.evaluation import HELDOUT, evaluate
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.material import Material
from aligner_jobs.train.model import build_model
from aligner_jobs.train.progress import News, Place
from aligner_jobs.train.reference import loss_over
from aligner_jobs.train.state_files import read_weights


def validation(config: TrainConfig, job: Mapping[str, Any]) -> ray_train.ValidationConfig | None:
    """For Ray Train's trainer; ``job`` is the workers'. ``None`` where the workers evaluate."""
    if (settings := config.heldout.beside) is None:
        return None
    return ray_train.ValidationConfig(
        fn=partial(evaluate_checkpoint, job=dict(job)),
        ray_remote_kwargs={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
    )


Evaluations = Mapping[Place, Mapping[str, float]]


class Requests:
    """What the workers have asked to be evaluated; all of them call each method together."""

    def __init__(
        self, settings: Beside, *, evaluations: Callable[[], Evaluations], group: Group
    ) -> None:
        """``evaluations`` are those that have ended; the first worker asks for them."""
        self._settings, self._evaluations, self._group = settings, evaluations, group
        self._last: tuple[Place, float] | None = None

    def new(self, place: Place) -> ray_train.ValidationTaskConfig | None:
        """For the report of a checkpoint; ``None`` while the evaluation before is under way."""
        if self._group.gather(self._is_busy())[0]:
            return None
        self._last = (place, time.monotonic())
        phase, step = place
        return ray_train.ValidationTaskConfig(
            fn_kwargs={"phase": phase, "step": step}, timeout_s=self._settings.timeout_s
        )

    def found(self) -> Evaluations:
        """What has been evaluated so far."""
        found = self._evaluations() if self._group.rank == 0 else {}
        everyones: list[Evaluations] = self._group.gather(found)
        return everyones[0]

    def _is_busy(self) -> bool:
        if self._group.rank or self._last is None:
            return False
        place, began_s = self._last
        if time.monotonic() - began_s > self._settings.timeout_s:
            return False
        return place not in self._evaluations()


def evaluate_checkpoint(
    checkpoint: ray_train.Checkpoint, *, phase: PhaseName, step: int, job: Mapping[str, Any]
) -> dict[str, float]:
    """Evaluate the weights in ``checkpoint``, tell the driver, and Ray Train as the return value.

    An evaluation that fails is told of as one without numbers: training goes on without it.
    """
    config = TrainConfig.model_validate(job["config"])
    material: Material = ray.get(job["material"])
    news = News(phase, step, evaluated=True)
    try:
        news = _evaluated(checkpoint, config=config, material=material, news=news)
    finally:
        ray.get(job["board"].post.remote(news))
    return dict(news.metrics)


def _evaluated(
    checkpoint: ray_train.Checkpoint, *, config: TrainConfig, material: Material, news: News
) -> News:
    beside = config.heldout.beside
    assert beside is not None
    torch.set_num_threads(max(1, beside.cpus))
    tokenizer = open_files(material.tokenizer)
    model = build_model(
        config,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with checkpoint.as_directory() as folder:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        read_weights(Path(folder), trained)
    device = torch.device("cuda" if beside.gpus else "cpu")
    engine = Alone(model.to(device), device)
    group = Group(rank=0, world_size=1, device=device)
    loss = loss_over(engine, material.heldout, HELDOUT, begun=True, config=config, group=group)
    found = evaluate(
        engine,
        material,
        rows=config.heldout.sample_rows,
        loss=loss,
        tokenizer=tokenizer,
        config=config,
        group=group,
    )
    return News(news.phase, news.step, found.metrics, samples=found.samples, evaluated=True)


class Alone(nn.Module):
    """A model that can be measured as a DeepSpeed engine is."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module, self.device = module, device

    def forward(self, **inputs: Any) -> Any:
        """The model's."""
        return self.module(**inputs)
