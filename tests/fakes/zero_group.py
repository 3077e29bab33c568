"""One process of a group that trains with DeepSpeed, without Ray, in one way after another.

    python zero_group.py RANK FOLDER

``FOLDER/job.pickle`` holds the configs and what they train on; ``FOLDER/losses.json`` will hold the
losses of each config's steps, and ``FOLDER/NUMBER`` the weights that each of them ends with.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from aligner_jobs.config.train import TrainConfig
from aligner_jobs.runtime import worker_env
from aligner_jobs.train.adapter_file import write_adapter
from aligner_jobs.train.batches import epoch_batches
from aligner_jobs.train.corpus import Corpus
from aligner_jobs.train.engine import start_engine, train_step
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy
from aligner_jobs.train.schedule import learning_rate
from aligner_jobs.train.weights import write_weights


def run(
    folder: Path, configs: Sequence[TrainConfig], corpus: Corpus, *, vocab_size: int
) -> list[list[float]]:
    """Train as each of ``configs`` says, in processes of their own; the losses of their steps."""
    (folder / "job.pickle").write_bytes(pickle.dumps((configs, corpus, vocab_size)))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env={**os.environ, **worker_env(), "PYTHONPATH": path},
        )
        for rank in range(configs[0].num_workers)
    ]
    try:
        assert not any(process.wait(timeout=600) for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    losses: list[list[float]] = json.loads((folder / "losses.json").read_text())
    return losses


def losses_of(engine: Any, config: TrainConfig, corpus: Corpus, *, group: Group) -> list[float]:
    """The mean loss of each step of the correction phase."""
    loss, found = CrossEntropy(), []
    phase = config.correction
    steps = [
        rows
        for epoch in range(phase.epochs)
        for rows in epoch_batches(
            len(corpus), global_batch_size=config.global_batch_size, seed=config.seed, epoch=epoch
        )
    ]
    for step, rows in enumerate(steps):
        rate = learning_rate(
            step,
            total_steps=len(steps),
            peak=phase.learning_rate,
            lr_warmup_ratio=phase.lr_warmup_ratio,
        )
        mine = train_step(engine, corpus, rows, loss=loss, rate=rate, config=config, group=group)
        found.append(group.total(float(mine))[0] / loss.weight(corpus, rows))
    return found


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    configs, corpus, vocab_size = pickle.loads((folder / "job.pickle").read_bytes())
    workers = configs[0].num_workers
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=workers
    )
    group = Group(rank, workers, torch.device("cpu"))
    losses = []
    for number, config in enumerate(configs):
        model = build_model(config, vocab_size=vocab_size, bos_token_id=1, eos_token_id=2)
        engine = start_engine(model, config)
        losses.append(losses_of(engine, config, corpus, group=group))
        place = folder / str(number)
        if rank == 0:
            place.mkdir()
        failure = write_weights(
            engine.module,
            place if rank == 0 else None,
            shard_bytes=config.export.shard_bytes,
            partitioned=config.zero.stage == 3,
        )
        assert failure is None
        if config.adapter is not None:
            failure = write_adapter(
                engine.module,
                place / "adapter" if rank == 0 else None,
                spec=config.adapter,
                base="base",
                partitioned=config.zero.stage == 3,
            )
            assert failure is None
        # Where the first worker cannot write, the others do not wait for it.
        refused = write_weights(
            engine.module,
            folder / "missing" if rank == 0 else None,
            shard_bytes=config.export.shard_bytes,
            partitioned=config.zero.stage == 3,
        )
        assert (refused is not None) == (rank == 0)
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(losses))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
