"""What a run will take, as pure functions of the settings: memory, steps, time and money.

Nothing is built and no engine is imported: a laptop can be asked about a cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aligner_jobs.config.model import Shape
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.train.hardware import Device, device_of
from aligner_jobs.train.memory import Estimate, Pass, estimate, trained_parameters

_PCIE_BYTES_PER_S: Final = 20e9
"""Between a GPU and the machine's memory."""
_HOST_BYTES_PER_S: Final = 15e9
"""Of the machine's memory, for one worker's share of an offloaded update."""
_UPDATE_BYTES: Final = 28
"""Read and written for each parameter: gradient, master weight and two moments."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What goes through the model."""

    rows: Mapping[PhaseName, int]
    """That are trained on, by phase."""
    tokens_per_row: float
    targets_per_row: float
    """Tokens with loss."""
    largest: Pass
    source: str
    """How that is known, in a few words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer of ``aligner train --plan``."""

    device: Device
    workers: int
    parameters: int
    trained: int
    memory: Estimate
    steps: Mapping[PhaseName, int]
    tokens: int
    """Over all epochs of both phases."""
    target_tokens: int
    seconds: float
    """Of training steps alone: not of starting, evaluation and checkpoints."""
    workload: Workload
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether a worker's memory is enough."""
        return self.memory.peak <= self.device.memory

    @property
    def usd(self) -> float:
        """Price of all workers' devices for that time."""
        return self.workers * self.device.usd_per_hour * self.seconds / 3600

    @property
    def tokens_per_s(self) -> float:
        """Of all workers together."""
        return self.tokens / self.seconds


def plan(
    config: TrainConfig, shape: Shape, workload: Workload, versions: Mapping[str, str]
) -> Plan:
    """What training ``shape`` by ``config`` on ``workload`` takes."""
    device = device_of(config)
    epochs: dict[PhaseName, int] = {
        "warmup": config.warmup.epochs,
        "correction": config.correction.epochs,
    }
    steps = {
        phase: epochs[phase] * -(-rows // config.global_batch_size)
        for phase, rows in workload.rows.items()
    }
    seen = sum(epochs[phase] * rows for phase, rows in workload.rows.items())
    tokens, targets = seen * workload.tokens_per_row, seen * workload.targets_per_row
    arithmetic = flops(config, shape, workload) * seen
    seconds = arithmetic / (config.num_workers * device.flops * config.plan.utilisation)
    seconds += sum(steps.values()) * _offload_seconds(config, shape, workload)
    return Plan(
        device=device,
        workers=config.num_workers,
        parameters=shape.parameters,
        trained=trained_parameters(shape, config.adapter),
        memory=estimate(config, shape, workload.largest),
        steps=steps,
        tokens=round(tokens),
        target_tokens=round(targets),
        seconds=seconds,
        workload=workload,
        versions=versions,
    )


def flops(config: TrainConfig, shape: Shape, workload: Workload) -> float:
    """Arithmetic of one row: forward, backward, and forward again where that is recomputed."""
    tokens, targets = workload.tokens_per_row, workload.targets_per_row
    matrices = 2 * tokens * shape.layers * shape.layer_parameters
    # Queries by keys and weights by values; on average a token sees half of its document.
    attention = 2 * tokens * tokens * shape.layers * shape.heads * shape.head_size
    logits = 2 * targets * shape.embedding_parameters
    forward = matrices + attention + logits
    backward = 2 * forward
    if config.adapter is not None:
        # Frozen weights need no gradients, only what goes through them.
        backward -= matrices + logits
    recomputed = matrices + attention if config.gradient_checkpointing else 0
    return forward + backward + recomputed


def _offload_seconds(config: TrainConfig, shape: Shape, workload: Workload) -> float:
    """Seconds of a step in which a GPU waits for the machine's memory, roughly."""
    if not config.use_gpu:
        return 0.0
    own = trained_parameters(shape, config.adapter) / config.num_workers
    b = 2 if config.precision == "bf16" else 4
    seconds = 0.0
    if config.zero.offload_optimizer:
        seconds += 2 * b * own / _PCIE_BYTES_PER_S + _UPDATE_BYTES * own / _HOST_BYTES_PER_S
    if config.zero.offload_parameters:
        times = 3 if config.gradient_checkpointing else 2
        share = b * shape.parameters / config.num_workers
        seconds += workload.largest.per_step * times * share / _PCIE_BYTES_PER_S
    return seconds
