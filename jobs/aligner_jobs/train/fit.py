"""Whether a run fits into its workers' memory, and which settings would make it fit."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aligner_jobs.config.model import Shape
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.hardware import GPUS, device_of
from aligner_jobs.train.memory import GIB, Estimate, Pass, estimate
from aligner_jobs.train.plan import Workload

Changes = Mapping[str, Any]
"""Dotted keys and values, as ``--set`` takes them."""

_MOST_WORKERS: Final = 512


def refusal(config: TrainConfig, shape: Shape, workload: Workload, *, name: str) -> list[str]:
    """One sentence where the config ``name`` does not fit, with the change that makes it fit."""
    device = device_of(config)
    needed = estimate(config, shape, workload.largest)
    if needed.peak <= device.memory:
        return []
    where = f"{config.num_workers} x {device.name}" if config.use_gpu else "this machine"
    return [
        f"{name}: does not fit on {where}, where a worker may use {_gib(device.memory)} and needs "
        f"{_gib(needed.peak)} ({_largest_parts(needed)}); {_remedy(config, shape, workload)}."
    ]


def _remedy(config: TrainConfig, shape: Shape, workload: Workload) -> str:
    for changes in _candidates(config):
        changed = _changed(config, changes)
        peak = estimate(changed, shape, _largest(changed, workload)).peak
        if peak <= device_of(changed).memory:
            sets = " ".join(f"--set {key}={value}" for key, value in changes.items())
            return f"{sets} makes it fit ({_gib(peak)})"
    return "no other setting makes it fit, take a smaller model"


def _candidates(config: TrainConfig) -> Iterator[Changes]:
    """Settings alone, fewest first; then what costs more hardware; then what trains less."""
    settings = list(_settings(config))
    more = [*_more_hardware(config), *([{"adapter": "{kind: lora}"}] if not config.adapter else [])]
    together: dict[str, Any] = {}
    for count in range(1, len(settings) + 1):
        for some in itertools.combinations(settings, count):
            joined = {key: value for one in some for key, value in one.items()}
            # Two values for one key: two stages, say.
            if len(joined) == sum(len(one) for one in some):
                yield joined
                together = joined
    yield from more
    yield from ({**together, **one} for one in more)


def _settings(config: TrainConfig) -> Iterator[Changes]:
    """Single changes that cost no hardware, those that cost least time first."""
    zero, sampled = config.zero, config.heldout.generate_batch_size
    if sampled > 1:
        yield {"heldout.generate_batch_size": max(1, sampled // 8)}
    if config.packing and config.pack_tokens > config.max_length_tokens:
        yield {"micro_batch_tokens": config.max_length_tokens}
    if not config.packing and config.micro_batch_size > 1:
        yield {"micro_batch_size": 1}
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": "true"}
    if config.num_workers > 1:
        yield from ({"zero.stage": stage} for stage in range(zero.stage + 1, 4))
    if config.use_gpu and not zero.offload_optimizer:
        stage = {} if zero.stage else {"zero.stage": 1}
        yield {**stage, "zero.offload_optimizer": "true"}
    if config.use_gpu and not zero.offload_parameters:
        both = {"zero.offload_optimizer": "true", "zero.offload_parameters": "true"}
        yield {"zero.stage": 3, **both}


def _more_hardware(config: TrainConfig) -> Iterator[Changes]:
    if not config.use_gpu:
        return
    workers = config.num_workers * 2
    while workers <= _MOST_WORKERS:
        yield {"num_workers": workers}
        workers *= 2
    if config.plan.memory_gib is None:
        own = GPUS[config.plan.gpu]
        yield from (
            {"plan.gpu": name} for name, gpu in GPUS.items() if gpu.memory_gib > own.memory_gib
        )


def _changed(config: TrainConfig, changes: Changes) -> TrainConfig:
    raw = config.model_dump(mode="json")
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = raw
        for parent in parents:
            node = node[parent]
        node[leaf] = {"kind": "lora"} if leaf == "adapter" else value
    return TrainConfig.model_validate(raw)


def _largest(config: TrainConfig, workload: Workload) -> Pass:
    """The largest pass under ``config``, whose passes may hold less than the workload's."""
    known = workload.largest
    limit = (
        config.pack_tokens if config.packing else config.max_length_tokens * config.micro_batch_size
    )
    tokens = min(known.tokens, limit)
    share = tokens / known.tokens
    return Pass(
        tokens=tokens,
        targets=round(known.targets * share),
        longest=known.longest,
        per_step=max(known.per_step / share, 2.0 if share < 1 else known.per_step),
    )


def _largest_parts(needed: Estimate) -> str:
    parts = sorted(needed.parts.items(), key=lambda part: -part[1])[:3]
    return ", ".join(f"{name} {_gib(size)}" for name, size in parts)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
