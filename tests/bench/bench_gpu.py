"""Training on one GPU: tokens/s, peak memory and MFU of the 2B and the 7B shape, in bf16.

Random weights, documents with lengths as in preference data, packed to the paper's 2,048 tokens a
row; the step is the one that ``aligner train`` takes, without Ray around it. MFU is the share of
the GPU's bf16 peak that the model's own arithmetic would need: what is computed a second time to
save memory does not count. The planner's estimate of the memory is printed beside.

    python tests/bench/bench_gpu.py [--only 2b-full 7b-lora] [--steps 8] [--peak-tflops 989]
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from aligner.config import load
from aligner.tokens import Example
from aligner_jobs import programs
from aligner_jobs.config.model import PretrainedModel, ScratchModel, Shape
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import epoch_batches
from aligner_jobs.train.corpus import Corpus, local_corpus
from aligner_jobs.train.encoding import block
from aligner_jobs.train.engine import start_engine, train_step
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.memory import estimate
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy
from aligner_jobs.train.workload import largest_pass

BAR = 0.45
MEMORY_BAR = 0.15
"""Share by which the planner's estimate of the memory may differ."""
ONE_GPU = ("num_workers=1", "global_batch_size=64", "zero.stage=1", "attention=auto")
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "2b-full": ("2b", ("micro_batch_tokens=8192", "gradient_checkpointing=true")),
    "7b-lora": (
        "7b",
        ("micro_batch_tokens=8192", "gradient_checkpointing=true", "adapter={kind: lora}"),
    ),
    "7b-offload": (
        "7b",
        ("micro_batch_tokens=16384", "gradient_checkpointing=true", "zero.offload_optimizer=true"),
    ),
    "tiny": ("tiny", ("num_workers=1", "precision=fp32")),
}
"""Name to a shipped config and what is changed in it; ``tiny`` tries the script out on cores."""


def config_of(name: str) -> tuple[TrainConfig, Shape]:
    """The case's config, with new weights of its model's shape."""
    shipped, changes = CASES[name]
    gpu = () if name == "tiny" else ONE_GPU
    config = load(TrainConfig, programs.shipped_config("jobs", f"train/{shipped}.yaml"),
                  ["dataset=none", "out=none", *gpu, *changes])  # fmt: skip
    model = config.model
    if isinstance(model, PretrainedModel):
        assert model.shape is not None, f"{shipped}.yaml names no shape"
        model = ScratchModel(kind="scratch", **model.shape.model_dump())
    return config.model_copy(update={"model": model}), model


def corpus_of(config: TrainConfig, shape: Shape, *, rows: int) -> Corpus:
    """Prompts of a median of 300 tokens and corrections of 180, none above the limit."""
    random = np.random.default_rng(0)
    made = []
    while len(made) < rows:
        prompt, target = (max(1, int(random.lognormal(np.log(n), 0.7))) for n in (300, 180))
        if prompt + target <= config.max_length_tokens:
            ids = random.integers(0, shape.vocab_size, prompt + target).tolist()
            made.append((f"{len(made):016x}", "keep", [Example(ids[:prompt], ids[prompt:])]))
    return local_corpus([block(made)])[0]


def model_flops(config: TrainConfig, shape: Shape, corpus: Corpus, rows: Any) -> float:
    """Floating point operations that one step over ``rows`` needs, nothing recomputed.

    Two for each weight and token forwards and as many for the inputs' gradients; as many again for
    the weights' own, which frozen weights do not need. The output layer is applied to targets only,
    and attention looks at half of each document's square.
    """
    lengths, targets = corpus.lengths[rows].astype(float), corpus.target_tokens(rows)
    passes = 2 if config.adapter is not None else 3
    layers = shape.layers * shape.layer_parameters * lengths.sum()
    attention = shape.layers * shape.heads * shape.head_size * (lengths**2).sum()
    return float(2 * passes * (layers + shape.embedding_parameters * targets) + 6 * attention)


def planned_gib(config: TrainConfig, shape: Shape, corpus: Corpus) -> float:
    """What `aligner train --plan` would say, less what is not PyTorch's own memory."""
    planned = estimate(config, shape, largest_pass(config, corpus))
    return (planned.peak - planned.parts["process"]) / 2**30


def measure(name: str, *, steps: int, peak_flops: float, device: torch.device) -> None:
    """Print one case's figures."""
    config, shape = config_of(name)
    corpus = corpus_of(config, shape, rows=config.global_batch_size * (steps + 2))
    model = build_model(config, vocab_size=shape.vocab_size, bos_token_id=1, eos_token_id=2)
    engine = start_engine(model, config)
    group = Group(0, 1, device)
    batches = epoch_batches(
        len(corpus), global_batch_size=config.global_batch_size, seed=0, epoch=0
    )
    seconds, flops, tokens = [], [], []
    for rows in batches:
        began_s = time.perf_counter()
        loss = train_step(
            engine, corpus, rows, loss=CrossEntropy(), rate=1e-5, config=config, group=group
        )
        # Reading the loss waits for the device.
        assert np.isfinite(float(loss)), f"{name}: the loss is {float(loss)}"
        seconds.append(time.perf_counter() - began_s)
        flops.append(model_flops(config, shape, corpus, rows))
        tokens.append(corpus.tokens(rows))
    # The first two warm up.
    mfu = statistics.median(f / s for f, s in zip(flops[2:], seconds[2:], strict=True)) / peak_flops
    rate = statistics.median(t / s for t, s in zip(tokens[2:], seconds[2:], strict=True))
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    print(f"{name}: {shape.parameters / 1e9:.2f}B parameters, {' '.join(CASES[name][1])}")
    print(f"{name}: {rate:,.0f} tokens/s, peak {memory:.1f} GiB, step {seconds[-1]:.2f} s")
    if memory:
        planned = planned_gib(config, shape, corpus)
        ratio = planned / memory
        verdict = "ok" if abs(ratio - 1) <= MEMORY_BAR else "short"
        figures = f"{planned:.1f} {memory:.1f} {ratio:.2f} {MEMORY_BAR} {verdict}"
        print(f"BENCH gpu_plan_{name}_gib {figures}")
    print(f"BENCH gpu_mfu_{name} {mfu:.3f} 1 {mfu:.3f} {BAR} {'ok' if mfu >= BAR else 'short'}")
    engine.destroy()


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    on_gpus = [name for name in CASES if name != "tiny"]
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=on_gpus)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16, dense; H100 SXM")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    if not cuda and arguments.only != ["tiny"]:
        print("bench_gpu: there is no GPU here, so nothing is measured")
        return
    device = torch.device("cuda:0" if cuda else "cpu")
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(
            "nccl" if cuda else "gloo",
            init_method=f"file://{Path(folder) / 'group'}",
            rank=0,
            world_size=1,
        )
        for name in arguments.only:
            peak = arguments.peak_tflops * 1e12
            measure(name, steps=arguments.steps, peak_flops=peak, device=device)
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
