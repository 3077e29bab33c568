"""One training worker: the loop that Ray Train starts in each process of the group."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
import torch
from ray import train as ray_train

from aligner.adapters.hf_tokenizer import open_files
from aligner.errors import AlignerError, TrainingError
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.train import export
from aligner_jobs.train.batches import epoch_batches
from aligner_jobs.train.beside import Requests
from aligner_jobs.train.checkpoints import SCORE, Checkpoints, Position, Saved
from aligner_jobs.train.corpus import Corpus, IntArray
from aligner_jobs.train.engine import Meter, start_engine, train_step
from aligner_jobs.train.evaluation import HELDOUT, HELDOUT_LOSS, Evaluated, evaluate
from aligner_jobs.train.guard import Best, LossGuard, require_number
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.material import PHASES, Material
from aligner_jobs.train.model import build_model
from aligner_jobs.train.notice import Notice, Wish
from aligner_jobs.train.objectives import Loss
from aligner_jobs.train.progress import News, Place
from aligner_jobs.train.reference import loss_over
from aligner_jobs.train.rows_seen import RowsSeen
from aligner_jobs.train.schedule import learning_rate
from aligner_jobs.train.storage import Storage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What worker 0 returns to the driver."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    export_hash: str = ""
    failure: AlignerError | None = None
    """Raised by all workers alike: starting them again would end the same way."""
    stopped: bool = False
    """Whether the driver asked for an end; a checkpoint was written then."""


class Stopped(Exception):
    """The driver has asked for an end, and all is saved."""


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
    except Stopped:
        return Outcome(stopped=True)


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
        self._checkpoints = Checkpoints(
            self._engine, group=self._group, storage=Storage.of_this_run()
        )
        self._notice = Notice(board, group=self._group)
        self._rows = RowsSeen(self._group)
        self._losses: dict[str, Loss] = {}
        self._metrics: dict[str, float] = {}
        self._best = Best()
        self._place: Place = (PHASES[0], 0)
        self._requests: Requests | None = None
        if (beside := config.heldout.beside) is not None:
            self._requests = Requests(
                beside, evaluations=lambda: ray.get(board.evaluations.remote()), group=self._group
            )

    def run(self) -> Outcome:
        """Train from the start or the last checkpoint to the export."""
        position = self._start()
        for phase in PHASES[PHASES.index(position.phase) :]:
            if position.phase != phase:
                position = Position(phase)
            self._run_phase(phase, position)
        return self._finish()

    def _start(self) -> Position:
        saved = self._checkpoints.restore()
        self._choose_losses(begun=saved is not None)
        if saved is None:
            first = next(p for p in PHASES if self._material.total_steps(p, self._config))
            self._place = (first, 0)
            self._measure(rows=0)
            return Position(first)
        position, self._metrics = saved.position, dict(saved.metrics)
        self._rows = RowsSeen(self._group, saved.rows)
        self._best = Best.of(self._metrics)
        self._place = (position.phase, position.step)
        self._post(News(position.phase, position.step, resumed=True))
        return position

    def _choose_losses(self, *, begun: bool) -> None:
        corpora: list[tuple[str, Corpus]] = [*self._material.phases.items()]
        for name, corpus in [*corpora, (HELDOUT, self._material.heldout)]:
            if len(corpus):
                self._losses[name] = loss_over(
                    self._engine, corpus, name, begun=begun, config=self._config, group=self._group
                )

    def _run_phase(self, phase: PhaseName, position: Position) -> None:
        """Train the rest of one phase; the place after it is where the next one begins."""
        self._guard = LossGuard(phase, self._config)
        epochs, rows = self._config.phase(phase).epochs, len(self._material.phases[phase])
        for epoch in range(position.epoch, epochs):
            batches = epoch_batches(
                rows,
                global_batch_size=self._config.global_batch_size,
                seed=self._config.seed,
                epoch=epoch,
            )
            done = position.batch if epoch == position.epoch else 0
            for at in range(done, len(batches)):
                step = epoch * len(batches) + at
                self._train_step(phase, epoch, step, batches[at])
                if at + 1 == len(batches):
                    self._rows.require_each_once(phase, epoch, rows=rows)
                if self._after_step(Position(phase, epoch=epoch, batch=at + 1, step=step + 1)):
                    return

    def _train_step(self, phase: PhaseName, epoch: int, step: int, rows: IntArray) -> None:
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
                    heard=partial(self._rows.add, phase, epoch),
                )
            )

    def _after_step(self, position: Position) -> bool:
        """Log, measure and save where it is time to; whether the phase is over."""
        config = self._config
        phase, step = self._place = position.phase, position.step
        last = step == self._material.total_steps(phase, config)
        wish = self._notice.read()
        measuring = last or step % config.heldout.every_steps == 0
        request = self._request() if measuring and not last else None
        saving = (
            last
            or wish != Wish.NOTHING
            or request is not None
            or step % config.checkpoints.every_steps == 0
            # Whichever turns out to be the best is what an early stop goes back to.
            or (measuring and phase == "correction" and config.early_stop is not None)
        )
        # Also before each checkpoint, so that none ever holds weights that are not numbers.
        if saving or step % config.log_every_steps == 0:
            self._log()
        measuring = measuring and (last or self._requests is None)
        if measuring:
            # At the very end more rows are corrected, when the weights are final.
            ending = last and phase == PHASES[-1]
            self._measure(rows=0 if ending else config.heldout.sample_rows)
        stopping = phase == "correction" and self._best.is_over(config.early_stop)
        if stopping:
            position = Position(phase, epoch=config.phase(phase).epochs, step=step)
            self._go_back()
        if saving or stopping:
            follower = Position("correction") if phase == "warmup" and last else position
            self._checkpoints.save(
                Saved(follower, self._metrics, self._rows.read()),
                score=self._metrics.get(SCORE) if measuring else None,
                request=request,
            )
        if wish == Wish.STOP:
            raise Stopped
        return last or stopping

    def _go_back(self) -> None:
        """To the weights with the best held-out loss, where there is a checkpoint of them."""
        if self._checkpoints.go_back("correction", self._best.step):
            self._metrics[HELDOUT_LOSS] = self._best.loss

    def _log(self) -> None:
        metrics, (phase, step) = self._meter.read(), self._place
        self._guard.hear(metrics["loss"], step)
        if (norm := self._engine.get_global_grad_norm()) is not None:
            what, value = "gradient norm", float(norm)
            metrics["grad_norm"] = value
        else:
            # Without ZeRO, and in fp32, DeepSpeed keeps none; the weights show what it was.
            sums = [parameter.detach().sum() for parameter in self._engine.module.parameters()]
            what, value = "sum of the weights", float(torch.stack(sums).sum())
        require_number(value, phase, step, config=self._config, what=what)
        self._keep(Evaluated(metrics))

    def _measure(self, *, rows: int, loss_too: bool = True) -> None:
        """Evaluate, and correct up to ``rows`` held-out rows of each kind."""
        found = evaluate(
            self._engine,
            self._material,
            rows=rows,
            loss=self._losses.get(HELDOUT) if loss_too else None,
            tokenizer=self._tokenizer,
            config=self._config,
            group=self._group,
        )
        self._keep(found)
        self._metrics |= found.metrics
        phase, step = self._place
        if step == 0 and HELDOUT_LOSS in found.metrics:
            self._metrics[f"{HELDOUT_LOSS}_before"] = found.metrics[HELDOUT_LOSS]
        self._judge(phase, step, found.metrics)

    def _request(self) -> ray_train.ValidationTaskConfig | None:
        """Ask for an evaluation beside training, and take in what those before have found."""
        if self._requests is None:
            return None
        for (phase, step), metrics in sorted(self._requests.found().items()):
            self._judge(phase, step, metrics)
        return self._requests.new(self._place)

    def _judge(self, phase: PhaseName, step: int, metrics: Mapping[str, float]) -> None:
        """Whether the held-out loss of the correction phase still falls."""
        known = phase != "correction" or 0 < step <= self._best.heard
        if HELDOUT_LOSS in metrics and not known:
            loss = metrics[HELDOUT_LOSS]
            self._best = self._best.after(loss, step, settings=self._config.early_stop)
            self._metrics |= self._best.metrics

    def _keep(self, found: Evaluated) -> None:
        """Remember the last numbers, and tell the driver."""
        phase, step = self._place
        self._metrics |= {f"{phase}/{name}": value for name, value in found.metrics.items()}
        self._post(News(phase, step, found.metrics, samples=found.samples))

    def _finish(self) -> Outcome:
        """Correct more rows than on the way, then the export."""
        self._measure(rows=self._config.heldout.generate_rows, loss_too=False)
        try:
            manifest = export.write_export(
                self._engine,
                config=self._config,
                material=self._material,
                tokenizer=self._tokenizer,
                facts={
                    "parameters": self._parameters,
                    "metrics": self._metrics,
                    "epochs": [one.fact for one in self._rows.read()],
                },
                group=self._group,
            )
        except AlignerError as exc:
            return Outcome(failure=exc)
        if manifest is None:
            return Outcome()
        return Outcome(metrics=self._metrics, export_hash=manifest.content_hash)

    def _post(self, news: News) -> None:
        if self._group.rank == 0:
            self._board.post.remote(news)
