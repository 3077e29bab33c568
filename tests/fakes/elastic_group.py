"""One process of a group that trains with DeepSpeed, without Ray, and changes its size on the way.

    python elastic_group.py RANK FOLDER PLAN

``PLAN`` is a JSON list of ``[workers, changes of the config, step to train to]``; each item begins
with what the one before has written. ``FOLDER/losses-N.json`` tells what item N has measured.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import deepspeed.comm
import torch
from deepspeed.utils import groups
from torch import distributed, nn

from aligner.config import validate
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.engine import start_engine
from aligner_jobs.train.fragments import (
    owned_fragments,
    owns_all,
    publish_weights,
    set_steps_taken,
    steps_taken,
)
from aligner_jobs.train.state_files import read_fragments, write_fragments

ROWS = 8
BASE = {"dataset": "d", "out": "o", "model": {"kind": "scratch"}, "precision": "fp32"}


def network() -> nn.Module:
    """Odd sizes, so that no number of workers divides them; the first layer is not trained."""
    torch.manual_seed(0)
    layers = [nn.Linear(7, 7), nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 13), nn.Linear(13, 3)]
    layers[0].requires_grad_(False)
    return nn.Sequential(*layers)


def batch(step: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    inputs, targets = torch.randn(ROWS, 7, generator=draw), torch.randn(ROWS, 3, generator=draw)
    return inputs.to(dtype), targets.to(dtype)


def step_on(engine: Any, step: int, *, rank: int, workers: int, dtype: torch.dtype) -> None:
    inputs, targets = batch(step, dtype)
    error = engine(inputs[rank::workers]) - targets[rank::workers]
    engine.set_gradient_accumulation_boundary(True)
    engine.backward((error.float() ** 2).sum() / ROWS * workers)
    engine.step()


def run(item: int, folder: Path, *, rank: int, workers: int, changes: Any, until: int) -> None:
    config = validate(TrainConfig, BASE | {"num_workers": workers} | changes, where="plan")
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    engine = start_engine(network(), config)
    step = 0
    if item:
        before = folder / f"checkpoint-{item - 1}"
        read_fragments(before, owned_fragments(engine))
        about = json.loads((before / "about.json").read_text())
        set_steps_taken(engine, about["steps"])
        publish_weights(engine)
        step = about["step"]
    while step < until:
        step_on(engine, step, rank=rank, workers=workers, dtype=dtype)
        step += 1
    after = folder / f"checkpoint-{item}"
    after.mkdir(exist_ok=True)
    if rank == 0 or not owns_all(engine):
        write_fragments(after, owned_fragments(engine), rank=rank, file_bytes=300)
    inputs, targets = batch(999, dtype)
    with torch.no_grad():
        loss = float(((engine(inputs) - targets).float() ** 2).mean())
    if rank == 0:
        about = {"steps": steps_taken(engine), "step": step}
        (after / "about.json").write_text(json.dumps(about))
        (folder / f"losses-{item}.json").write_text(json.dumps(loss))


def leave(folder: Path, item: int, *, rank: int) -> None:
    """End the group in such a way that this process can join another."""
    distributed.barrier()
    if rank == 0:
        (folder / f"done-{item}").touch()
    distributed.destroy_process_group()
    deepspeed.comm.comm.cdb = None
    for name, value in vars(groups).items():
        if isinstance(value, distributed.ProcessGroup):
            setattr(groups, name, None)


def main() -> None:
    rank, folder, plan = int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    for item, (workers, changes, until) in enumerate(plan):
        if rank >= workers:
            continue
        while item and not (folder / f"done-{item - 1}").exists():
            time.sleep(0.02)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/group-{item}", rank=rank, world_size=workers
        )
        run(item, folder, rank=rank, workers=workers, changes=changes, until=until)
        leave(folder, item, rank=rank)


if __name__ == "__main__":
    main()
