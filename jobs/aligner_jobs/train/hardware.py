"""What a training process can run on: memory, speed and price."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aligner_jobs.config.plan import GpuName
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.memory import GIB

_CORE_FLOPS: Final = 70e9
"""A core of a server with 256-bit vectors, in fp32."""
_BF16_TO_FP32: Final = 0.5
"""Matrix units compute fp32 weights as TF32, at half the speed of bf16."""
_SPARE: Final = 0.05
"""Share of a device's memory that is left free: allocators do not use all that they take."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One type of GPU."""

    memory_gib: float
    """That programs can use."""
    bf16_flops: float
    """Dense, per second, from the maker's data sheet."""
    usd_per_hour: float
    """What clouds ask for one on demand, roughly and in 2026; ``plan.usd_per_hour`` says better."""


GPUS: Final[Mapping[GpuName, Gpu]] = {
    "l4": Gpu(22.0, 121e12, 0.8),
    "l40s": Gpu(44.4, 362e12, 1.9),
    "a100-40gb": Gpu(39.4, 312e12, 1.6),
    "a100-80gb": Gpu(79.2, 312e12, 2.0),
    "a800-80gb": Gpu(79.2, 312e12, 2.0),
    "h100-80gb": Gpu(79.1, 989e12, 3.0),
    "h200-141gb": Gpu(139.8, 989e12, 3.8),
    "b200-180gb": Gpu(178.0, 2250e12, 6.0),
}


@dataclass(frozen=True, slots=True)
class Device:
    """What one worker has to itself."""

    name: str
    memory: int
    """Bytes that may be used."""
    flops: float
    """Peak per second at the config's precision."""
    usd_per_hour: float


def device_of(config: TrainConfig) -> Device:
    """The device of each of ``config``'s workers; cores share this machine's memory."""
    plan = config.plan
    if config.use_gpu:
        gpu = GPUS[plan.gpu]
        return Device(
            name=plan.gpu,
            memory=_usable(plan.memory_gib or gpu.memory_gib),
            flops=gpu.bf16_flops * (1.0 if config.precision == "bf16" else _BF16_TO_FP32),
            usd_per_hour=gpu.usd_per_hour if plan.usd_per_hour is None else plan.usd_per_hour,
        )
    machine = plan.memory_gib or machine_gib()
    return Device(
        name=f"{config.cpus_per_worker} cores" if config.cpus_per_worker > 1 else "a core",
        memory=_usable(machine / config.num_workers),
        flops=_CORE_FLOPS * config.cpus_per_worker,
        usd_per_hour=plan.usd_per_hour or 0.0,
    )


def machine_gib() -> float:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB


def _usable(gib: float) -> int:
    return int(gib * GIB * (1 - _SPARE))
