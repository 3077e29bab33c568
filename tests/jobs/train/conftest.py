"""A small dataset of the simulated world, a tracker in memory, and a plain training loop."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch
from made_datasets import published_dataset, simworld_rows
from torch import nn

from aligner import artefacts
from aligner.adapters.hf_tokenizer import open_files
from aligner.adapters.memory_tracker import MemoryRun, MemoryTracker
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate, epoch_batches
from aligner_jobs.train.material import Material, load, survey
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy
from aligner_jobs.train.schedule import learning_rate

WriteDataset = Callable[..., str]


@pytest.fixture(scope="session")
def write_dataset() -> WriteDataset:
    """Publishes a dataset artefact of given rows."""
    return published_dataset


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """120 training rows and 30 held-out ones."""
    folder = tmp_path_factory.mktemp("dataset")
    return published_dataset(
        folder / "small", simworld_rows(40), simworld_rows(10, split="heldout")
    )


@dataclass(slots=True)
class WatchedRun(MemoryRun):
    """Lets a test act while training runs."""

    on_metrics: Callable[[Mapping[str, float], int], None] = lambda metrics, step: None

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, at_ms: int | None = None
    ) -> None:
        MemoryRun.log_metrics(self, metrics, step=step)
        self.on_metrics(metrics, step)


class WatchedTracker(MemoryTracker):
    """Has one run, which a test can watch and act upon."""

    def __init__(self) -> None:
        super().__init__()
        self.only = WatchedRun("run-1", "training")
        self.opened: list[str | None] = []

    @contextlib.contextmanager
    def run(
        self, name: str, *, parent_run_id: str | None = None, run_id: str | None = None
    ) -> Iterator[MemoryRun]:
        self.opened.append(run_id)
        yield self.only


@pytest.fixture
def tracker() -> WatchedTracker:
    """A tracking server in memory."""
    return WatchedTracker()


def prepare(config: TrainConfig) -> Material:
    """What the driver makes of the dataset, without Ray."""
    dataset = artefacts.read_manifest(config.dataset, kind="dataset")
    return load(config, dataset, survey(config, dataset))


@pytest.fixture(scope="session")
def prepared() -> Callable[[TrainConfig], Material]:
    """Reads a config's dataset without Ray."""
    return prepare


def plain_loop(config: TrainConfig, material: Material) -> tuple[dict[str, list[float]], nn.Module]:
    """The same training in a few lines of PyTorch: losses per phase and step, and the model."""
    # More threads than free cores would spend their time waiting for one another.
    torch.set_num_threads(1)
    model = build_model(config, vocab_size=_vocab(material), bos_token_id=1, eos_token_id=2)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(settings.beta1, settings.beta2), eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )  # fmt: skip
    losses: dict[str, list[float]] = {}
    for phase, corpus in material.phases.items():
        total = material.total_steps(phase, config)
        losses[phase] = []
        for epoch in range(config.phase(phase).epochs):
            for rows in epoch_batches(
                len(corpus),
                global_batch_size=config.global_batch_size,
                seed=config.seed,
                epoch=epoch,
            ):
                optimizer.param_groups[0]["lr"] = learning_rate(
                    len(losses[phase]),
                    total_steps=total,
                    peak=config.phase(phase).learning_rate,
                    lr_warmup_ratio=config.phase(phase).lr_warmup_ratio,
                )
                batch = collate(corpus, rows, packed=False)
                loss = CrossEntropy().total(model, batch, device=torch.device("cpu"))
                loss = loss / corpus.target_tokens(rows)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clipping)
                optimizer.step()
                losses[phase].append(loss.item())
    return losses, model


def _vocab(material: Material) -> int:
    return open_files(material.tokenizer).vocab_size


PlainLoop = Callable[[TrainConfig, Material], tuple[dict[str, list[float]], nn.Module]]


@pytest.fixture(scope="session")
def plain() -> PlainLoop:
    """Training without DeepSpeed and Ray, for comparison."""
    return plain_loop
