"""What `aligner train --plan` says about memory against what a training worker really takes.

Each case is planned, then trained by the very command: Ray Train's workers are watched from outside
and the most that the largest of them had resident counts. The case 0.5b is a checkpoint of that
shape with random weights and a small tokenizer; it needs 16 GiB of memory and of disk, and nothing
beside it that needs as much.

    python tests/bench/bench_plan.py [--only tiny]
"""

import argparse
import contextlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from aligner.adapters.hf_tokenizer import write_files
from aligner.adapters.simworld_http import SimworldServer
from aligner.config import load
from aligner.prompt import PLAIN
from aligner_jobs import programs
from aligner_jobs.config.model import PretrainedModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.shards import read_rows
from aligner_jobs.train.tokenizer import train_tokenizer

BAR = 0.15
"""Share by which plan and measurement may differ."""
GIB = 1024**3
SHORT = ("correction.epochs=1", "heldout.rows=16", "heldout.generate_rows=0", "register_as=null")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("tiny", "0.5b"))
    parser.add_argument("--stages", type=int, nargs="*", default=(0,), help="of ZeRO, for 0.5b")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as name:
        folder = Path(name)
        if arguments.only != "0.5b":
            dataset = build_dataset(folder / "dataset", questions=150)
            measure("tiny", folder, "tiny", (f"dataset={dataset}", *SHORT))
        if arguments.only != "tiny":
            # Two steps: at half a billion parameters each takes a quarter of a minute.
            dataset = build_dataset(folder / "few", questions=6)
            checkpoint = random_checkpoint(folder / "model", dataset)
            for stage in arguments.stages:
                sets = half_billion(dataset, checkpoint, stage)
                measure(f"0.5b_zero_{stage}", folder, "0.5b", sets)


def build_dataset(out: Path, *, questions: int) -> str:
    """Three answers to each of so many questions of the simulated world."""
    with SimworldServer(0) as server:
        sets = (
            f"out={out}",
            f"base_url={server.base_url}",
            f"sources.simworld.limit={questions}",
            f"tracking.uri=sqlite:///{out}.db",
        )
        path = programs.shipped_config("jobs", "build-dataset/simworld.yaml")
        programs.run(programs.command("build-dataset", path, sets), {})
    return str(out)


def random_checkpoint(folder: Path, dataset: str) -> Path:
    """The shipped 0.5b shape with random weights in fp32."""
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    model = load(TrainConfig, programs.shipped_config("jobs", "train/0.5b.yaml")).model
    assert isinstance(model, PretrainedModel) and model.shape
    shape = model.shape
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=2048,
            tie_word_embeddings=shape.tied_embeddings,
        )
    )
    made.save_pretrained(folder)
    rows = list(read_rows(dataset, "train"))
    write_files(train_tokenizer(rows, template=PLAIN, vocab_size=1024), folder, overwrite=False)
    return folder


def half_billion(dataset: str, checkpoint: Path, stage: int) -> tuple[str, ...]:
    """One worker on cores, fp32, two steps of few tokens."""
    return (
        f"dataset={dataset}",
        f"model={{kind: pretrained, path: {checkpoint}}}",
        "use_gpu=false",
        "num_workers=1",
        "cpus_per_worker=2",
        "precision=fp32",
        "gradient_checkpointing=false",
        f"zero={{stage: {stage}}}",
        "max_length_tokens=512",
        "micro_batch_tokens=512",
        "global_batch_size=8",
        "warmup.epochs=0",
        *SHORT,
    )


def measure(name: str, folder: Path, config: str, sets: tuple[str, ...]) -> None:
    """Plan the case, train it, and print both as one BENCH line."""
    path = programs.shipped_config("jobs", f"train/{config}.yaml")
    sets = (*sets, f"out={folder}/{name}", f"tracking.uri=sqlite:///{folder}/{name}.db")
    command = programs.command("train", path, sets)
    said = subprocess.run(
        [*command, "--plan", "--json"], capture_output=True, text=True, check=True
    )
    planned = json.loads(said.stdout)["memory"]["peak"] / GIB
    with most_resident() as most:
        programs.run(command, {})
    measured = most[0] / GIB
    ratio = planned / measured
    verdict = "ok" if abs(ratio - 1) <= BAR else "short"
    print(f"BENCH plan_{name}_gib {planned:.2f} {measured:.2f} {ratio:.2f} {BAR} {verdict}")


@contextlib.contextmanager
def most_resident() -> Iterator[list[int]]:
    """The most bytes that any of this process's training workers has had resident so far."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        most[0] = max(most[0], _high_water(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
