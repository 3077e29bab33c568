"""Memory that the export of a partitioned model takes, against its largest file of weights.

Two workers hold a model of some 200 million parameters under ZeRO-3 and write it, as whole weights
and with LoRA merged into them. What counts is how far each worker's resident memory rises above
where it stood before; the kernel keeps the peak.

    python tests/bench/bench_export.py [--shard-mib 150]
"""

import argparse
import gc
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import distributed

from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.export import Export
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig, Zero
from aligner_jobs.runtime import worker_env
from aligner_jobs.train.engine import start_engine
from aligner_jobs.train.model import build_model
from aligner_jobs.train.weights import files_of, weights_of, write_weights

# Each tensor gets pages of its own, which go back with it: resident memory is what is in use.
# Otherwise tensors would be laid into holes that building the model has left, and cost nothing.
PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536"}
WORKERS = 2
BAR = 1.2
MODEL = ScratchModel(
    kind="scratch",
    hidden_size=1024,
    layers=14,
    heads=16,
    intermediate_size=2816,
    vocab_size=16000,
)
"""196 million parameters, 374 MiB in bf16; the embedding has 31 MiB, the next largest 5.5 MiB."""


def resident_bytes(field: str) -> int:
    """``VmRSS`` or ``VmHWM``, the peak, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    return int(line.split()[1]) * 1024


def forget_the_peak() -> None:
    """Begin a new one."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def worker(rank: int, folder: Path) -> None:
    """Write the model of each case and note how much memory that took."""
    configs: dict[str, TrainConfig] = pickle.loads((folder / "job.pickle").read_bytes())
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORKERS))
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=WORKERS
    )
    found = {}
    for name, config in configs.items():
        model = build_model(config, vocab_size=MODEL.vocab_size, bos_token_id=1, eos_token_id=2)
        engine = start_engine(model, config)
        del model
        shard_bytes = config.export.shard_bytes
        files = files_of(weights_of(engine.module), shard_bytes=shard_bytes)
        place = folder / name
        place.mkdir(exist_ok=True)
        distributed.barrier()
        forget_the_peak()
        before = resident_bytes("VmRSS")
        failure = write_weights(
            engine.module, place if rank == 0 else None, shard_bytes=shard_bytes, partitioned=True
        )
        assert failure is None
        found[name] = {
            "peak": resident_bytes("VmHWM") - before,
            "file": max(sum(weight.size_bytes for weight in file) for file in files),
            "files": len(files),
        }
        del engine
    (folder / f"{rank}.json").write_text(json.dumps(found))
    # Threads of a group that still stands can abort the process at its end.
    distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shard-mib", type=int, default=150)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.worker, options.folder)
        return
    base = TrainConfig(
        dataset="d",
        out="o",
        model=MODEL,
        num_workers=WORKERS,
        precision="bf16",
        zero=Zero(stage=3),
        export=Export(shard_bytes=options.shard_mib << 20),
    )
    lora = base.model_copy(update={"adapter": Lora(kind="lora")})
    with tempfile.TemporaryDirectory(prefix="aligner-bench-export-") as name:
        folder = Path(name)
        (folder / "job.pickle").write_bytes(pickle.dumps({"whole": base, "lora": lora}))
        command = [sys.executable, __file__, "--folder", name, "--worker"]
        env = {**os.environ, **worker_env(), **PAGES, "PYTHONPATH": os.pathsep.join(sys.path)}
        group = [subprocess.Popen([*command, str(rank)], env=env) for rank in range(WORKERS)]
        assert not any(process.wait() for process in group)
        results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORKERS)]
    for case, writer in results[0].items():
        others = max(result[case]["peak"] for result in results[1:])
        ratio = writer["peak"] / writer["file"]
        print(
            f"{case}: {writer['files']} files, the largest {writer['file'] / 2**20:.0f} MiB; "
            f"a worker that does not write took {others / 2**20:.0f} MiB"
        )
        print(
            f"BENCH export_{case}_peak_mib {writer['peak'] / 2**20:.0f} "
            f"{writer['file'] / 2**20:.0f} {ratio:.2f} {BAR} {'ok' if ratio <= BAR else 'short'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
