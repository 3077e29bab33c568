"""One training worker: the loop that Ray Train starts in each process of the group."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray import train as ray_train

from aligner.adapters.hf_tokenizer import open_files
from aligner.errors import AlignerError, TrainingError
from aligner_jobs.config.objective import CorrectionObjective
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.train import checkpoint, export
from aligner_jobs.train.batches import epoch_batches
from aligner_jobs.train.corpus import IntArray
from aligner_jobs.train.engine import Meter, start_engine, train_step
from aligner_jobs.train.heldout import Group, heldout_loss, unchanged_rate
from aligner_jobs.train.material import PHASES, Material
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import Loss
from aligner_jobs.train.progress import News
from aligner_jobs.train.reference import loss_over
from aligner_jobs.train.schedule import learning_rate

_HELDOUT = "heldout"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What worker 0 returns to the driver."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    export_hash: str = ""
    failure: AlignerError | None = None
    """Raised by all workers alike: starting them again would end the same way."""


def train_loop(job: dict[str, Any]) -> Outcome:
    """Train, measure and export; ``job`` holds ``config``, ``material`` and ``board``.

    What goes wrong for every worker alike is returned, because Ray Train starts a group again
    whose worker raises.
    """
    config = TrainConfig.model_validate(job["config"])
    material: Material = ray.get(job["material"])
    torch.set_num_threads(config.cpus_per_worker)
    try:
        return Loop(config, material, board=job["board"]).run()
    except TrainingError as exc:
        return Outcome(failure=exc)


def require_number(loss: float, phase: PhaseName, step: int, *, config: TrainConfig) -> None:
    """Raise :class:`TrainingError` where ``loss`` is no number: nothing good can follow."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"{phase} phase, step {step}: the loss is {loss}; lower {phase}.learning_rate "
            f"(now {config.phase(phase).learning_rate:g}) and start again."
        )


class Loop:
    """Both phases over one engine."""

    def __init__(self, config: TrainConfig, material: Material, *, board: Any) -> None:
        """Build model and engine; ``board`` is the driver's :class:`Board` actor."""
        context = ray_train.get_context()
        self._config, self._material, self._board = config, material, board
        self._tokenizer = open_files(material.tokenizer)
        model = build_model(
            config,
            vocab_size=self._tokenizer.vocab_size,
            bos_token_id=self._tokenizer.bos_token_id,
            eos_token_id=self._tokenizer.eos_token_id,
        )
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        self._engine = start_engine(model, config)
        self._group = Group(context.get_world_rank(), context.get_world_size(), self._engine.device)
        self._meter = Meter(self._group)
        self._losses: dict[str, Loss] = {}
        self._metrics: dict[str, float] = {}

    def run(self) -> Outcome:
        """Train from the start or the last checkpoint to the export."""
        position = self._start()
        for phase in PHASES[PHASES.index(position.phase) :]:
            if position.phase != phase:
                position = checkpoint.Position(phase)
            self._run_phase(phase, position)
        return self._finish()

    def _start(self) -> checkpoint.Position:
        found = ray_train.get_checkpoint()
        self._choose_losses(begun=found is not None)
        if found is None:
            first = next(p for p in PHASES if self._material.total_steps(p, self._config))
            self._measure_heldout(first, 0)
            return checkpoint.Position(first)
        position, self._metrics = checkpoint.restore(self._engine, found, group=self._group)
        self._post(News(position.phase, position.step, resumed=True))
        return position

    def _choose_losses(self, *, begun: bool) -> None:
        for name, corpus in {**self._material.phases, _HELDOUT: self._material.heldout}.items():
            self._losses[name] = loss_over(
                self._engine, corpus, name, begun=begun, config=self._config, group=self._group
            )

    def _run_phase(self, phase: PhaseName, position: checkpoint.Position) -> None:
        """Train the rest of one phase; the place after it is where the next one begins."""
        epochs = self._config.phase(phase).epochs
        for epoch in range(position.epoch, epochs):
            batches = epoch_batches(
                len(self._material.phases[phase]),
                global_batch_size=self._config.global_batch_size,
                seed=self._config.seed,
                epoch=epoch,
            )
            done = position.batch if epoch == position.epoch else 0
            for at in range(done, len(batches)):
                step = epoch * len(batches) + at
                self._train_step(phase, step, batches[at])
                self._after_step(
                    checkpoint.Position(phase, epoch=epoch, batch=at + 1, step=step + 1)
                )

    def _train_step(self, phase: PhaseName, step: int, rows: IntArray) -> None:
        """One optimiser step on one global batch."""
        corpus, settings = self._material.phases[phase], self._config.phase(phase)
        rate = learning_rate(
            step,
            total_steps=self._material.total_steps(phase, self._config),
            peak=settings.learning_rate,
            lr_warmup_ratio=settings.lr_warmup_ratio,
        )
        loss = self._losses[phase]
        with self._meter.step(corpus, rows, loss=loss, rate=rate):
            self._meter.add_loss(
                train_step(
                    self._engine,
                    corpus,
                    rows,
                    loss=loss,
                    rate=rate,
                    config=self._config,
                    group=self._group,
                )
            )

    def _after_step(self, position: checkpoint.Position) -> None:
        """Log, measure and save where it is time to."""
        config = self._config
        phase, step = position.phase, position.step
        last = step == self._material.total_steps(phase, config)
        saving = last or step % config.checkpoints.every_steps == 0
        # Also before each checkpoint, so that none ever holds weights that are not numbers.
        if saving or step % config.log_every_steps == 0:
            self._log(phase, step)
        if last or step % config.heldout.every_steps == 0:
            self._measure_heldout(phase, step)
        if saving:
            follower = checkpoint.Position("correction") if phase == "warmup" and last else position
            checkpoint.save(self._engine, follower, metrics=self._metrics, group=self._group)

    def _log(self, phase: PhaseName, step: int) -> None:
        metrics = self._meter.read()
        require_number(metrics["loss"], phase, step, config=self._config)
        self._metrics |= {f"{phase}/{name}": value for name, value in metrics.items()}
        self._post(News(phase, step, metrics))

    def _measure_heldout(self, phase: PhaseName, step: int) -> None:
        if not len(self._material.heldout):
            return
        loss = heldout_loss(
            self._engine,
            self._material.heldout,
            loss=self._losses[_HELDOUT],
            config=self._config,
            group=self._group,
        )
        if step == 0:
            self._metrics["heldout_loss_before"] = loss
        self._metrics["heldout_loss"] = self._metrics[f"{phase}/heldout_loss"] = loss
        self._post(News(phase, step, {"heldout_loss": loss}))

    def _finish(self) -> Outcome:
        """Copy and identity rate of an Aligner, then the export."""
        aligner = isinstance(self._config.objective, CorrectionObjective)
        samples = (
            {}
            if not aligner
            else {
                "copy_rate": self._material.copy_sample,
                "identity_rate": self._material.identity_sample,
            }
        )
        for name, rows in samples.items():
            rate = unchanged_rate(
                self._engine,
                rows,
                config=self._config,
                template=self._material.template,
                tokenizer=self._tokenizer,
                group=self._group,
            )
            if not math.isnan(rate):
                self._metrics[name] = rate
        first = self._group.rank == 0
        weights = export.gather_weights(self._engine, stage=self._config.zero.stage, keep=first)
        if not first:
            return Outcome()
        try:
            manifest = export.write_export(
                self._engine,
                weights,
                config=self._config,
                material=self._material,
                tokenizer=self._tokenizer,
                facts={"parameters": self._parameters, "metrics": self._metrics},
            )
        except AlignerError as exc:
            return Outcome(failure=exc)
        return Outcome(metrics=self._metrics, export_hash=manifest.content_hash)

    def _post(self, news: News) -> None:
        if self._group.rank == 0:
            self._board.post.remote(news)
