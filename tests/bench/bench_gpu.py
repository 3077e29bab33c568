"""The shipped shapes on one GPU: tokens/s and the share of its peak that the model's arithmetic is.

Random weights in bf16, packs of random tokens, our step on a DeepSpeed engine in one process. The
arithmetic is that of :func:`aligner_jobs.train.plan.flops`, in which what is computed a second time
counts once. ``2b`` trains all weights, ``7b-lora`` additions to frozen ones. Without a GPU it says
so and measures nothing.

    python tests/bench/bench_gpu.py [--only 2b 7b-lora] [--steps 5] [--gpu h200-141gb]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from aligner.config import load
from aligner.tokens import Example
from aligner_jobs import programs
from aligner_jobs.config.model import ScratchModel, Shape
from aligner_jobs.config.plan import GpuName
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import epoch_batches
from aligner_jobs.train.corpus import Corpus, local_corpus
from aligner_jobs.train.encoding import block
from aligner_jobs.train.engine import start_engine, train_step
from aligner_jobs.train.hardware import GPUS
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.memory import estimate
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy
from aligner_jobs.train.plan import Workload, flops
from aligner_jobs.train.shapes import shape_of
from aligner_jobs.train.workload import largest_pass

BAR = 0.45
MEMORY_BAR = 0.15
"""Share by which the planner's estimate of the memory may differ."""
ROWS = 32
"""Of a global batch."""
ROW_TOKENS, TARGETS = 512, 128
CASES: Mapping[str, tuple[str, Sequence[str]]] = {
    "2b": ("2b", ["zero.stage=1"]),
    "7b-lora": ("7b", ["zero.stage=0", "adapter={kind: lora}"]),
}
"""Shipped config, and what one GPU wants otherwise."""


def config_of(name: str) -> TrainConfig:
    """The shipped settings with a new model of that shape, for one worker."""
    size, changes = CASES[name]
    path = programs.shipped_config("jobs", f"train/{size}.yaml")
    shape = shape_of(load(TrainConfig, path))
    one = [f"global_batch_size={ROWS}", "num_workers=1", "heldout.generate_rows=0"]
    config = load(TrainConfig, path, [*one, *changes])
    model = ScratchModel(kind="scratch", **shape.model_dump(include=set(Shape.model_fields)))
    return config.model_copy(update={"model": model})


def corpus_of(vocab_size: int) -> Corpus:
    """One global batch of random rows."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        ids = random.integers(3, vocab_size, ROW_TOKENS).tolist()
        example = Example(prompt_ids=ids[:-TARGETS], target_ids=ids[-TARGETS:])
        rows.append((f"{number:064x}", "keep", [example]))
    return local_corpus([block(rows)])[0]


def seconds_of(config: TrainConfig, corpus: Corpus, *, steps: int) -> list[float]:
    """Of each step but the first two."""
    model: Any = config.model
    engine = start_engine(
        build_model(config, vocab_size=model.vocab_size, bos_token_id=1, eos_token_id=2), config
    )
    group = Group(0, 1, engine.device)
    (rows,) = epoch_batches(len(corpus), global_batch_size=ROWS, seed=0, epoch=0)
    taken = []
    for _ in range(steps + 2):
        torch.cuda.synchronize()
        began_s = time.perf_counter()
        train_step(engine, corpus, rows, loss=CrossEntropy(), rate=1e-5, config=config, group=group)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began_s)
    return taken[2:]


def measure(name: str, *, gpu: GpuName, steps: int) -> None:
    """Print the settings and one BENCH line."""
    config = config_of(name)
    shape = shape_of(config)
    corpus = corpus_of(shape.vocab_size)
    largest = largest_pass(config, corpus)
    work = Workload({}, ROW_TOKENS, TARGETS, largest, source="random")
    print(config.model_dump_json(exclude={"tracking", "plan", "heldout", "checkpoints"}))
    torch.cuda.reset_peak_memory_stats()
    step_s = statistics.median(seconds_of(config, corpus, steps=steps))
    peak_gib = torch.cuda.max_memory_allocated() / 2**30
    planned = estimate(config, shape, largest)
    # What PyTorch counts is its own memory alone.
    planned_gib = (planned.peak - planned.parts["process"]) / 2**30
    plain = config.model_copy(update={"gradient_checkpointing": False})
    mfu = ROWS * flops(plain, shape, work) / step_s / GPUS[gpu].bf16_flops
    tokens_per_s = ROWS * ROW_TOKENS / step_s
    print(f"{name}: {tokens_per_s:,.0f} tokens/s")
    fits = "ok" if abs(planned_gib / peak_gib - 1) <= MEMORY_BAR else "short"
    figures = f"{planned_gib:.1f} {peak_gib:.1f} {planned_gib / peak_gib:.2f} {MEMORY_BAR} {fits}"
    print(f"BENCH gpu_plan_{name}_gib {figures}")
    verdict = "ok" if mfu >= BAR else "short"
    print(f"BENCH gpu_mfu_{name} {mfu:.3f} {BAR} {mfu / BAR:.2f} {BAR} {verdict}", flush=True)


def main() -> None:
    """Parse the command line; each case has a process of its own, and so the whole GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h200-141gb")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        return
    if len(arguments.only) > 1:
        for name in arguments.only:
            rest = ["--steps", str(arguments.steps), "--gpu", arguments.gpu]
            os.spawnv(os.P_WAIT, sys.executable, [sys.executable, __file__, "--only", name, *rest])
        return
    print(torch.cuda.get_device_name(), torch.__version__)
    with tempfile.NamedTemporaryFile() as file:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        torch.distributed.init_process_group(
            "nccl", init_method=f"file://{file.name}.group", rank=0, world_size=1
        )
        measure(arguments.only[0], gpu=cast(GpuName, arguments.gpu), steps=arguments.steps)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
