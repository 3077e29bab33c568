"""Training tokens/s: our step (DeepSpeed in a Ray Train worker group) against bare PyTorch.

Same model, same batches, same number of processes, one thread each. Both groups of processes stay
up and take turns, so that a busy machine disturbs them alike; start-up is not counted. The bare
side is ``torch.nn.parallel.DistributedDataParallel`` over gloo, without Ray and DeepSpeed.

    python tests/bench/bench_train.py [--turns 5] [--steps 40] [--workers 2]
"""

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed

from aligner.adapters.hf_tokenizer import open_files
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner.simworld.profiles import answer
from aligner.simworld.questions import training_questions
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner_jobs import programs, runtime
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import Corpus, IntArray, collate, epoch_batches, worker_parts
from aligner_jobs.train.corpus import tokenise
from aligner_jobs.train.engine import start_engine, train_step
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import correction_loss_sum
from aligner_jobs.train.tokenizer import train_tokenizer

BAR = 0.85
RATE = 1e-3
VOCAB = 1024


def corpus_of(config: TrainConfig, *, questions: int) -> Corpus:
    """Rows of the simulated world as the quickstart's training sees them."""
    world = World(0)
    rows = []
    for question in training_questions(world, questions):
        text = answer(world, "basalt", question)
        rows.append(Triple(question.question, text, correct(world, question, text)))
    files = train_tokenizer(rows, template=PLAIN, vocab_size=VOCAB)
    return tokenise(
        rows,
        split="train",
        template=PLAIN,
        tokenizer=open_files(files),
        max_length_tokens=config.max_length_tokens,
    ).corpus


def batches_of(config: TrainConfig, corpus: Corpus, steps: int) -> list[IntArray]:
    batches = epoch_batches(
        corpus.lengths, global_batch_size=config.global_batch_size, seed=0, epoch=0
    )
    return batches[:steps]


def new_model(config: TrainConfig) -> torch.nn.Module:
    torch.set_num_threads(1)
    return build_model(config, vocab_size=VOCAB, bos_token_id=1, eos_token_id=2)


# --- ours: in each worker of the group ------------------------------------------------------------


def our_worker(job: dict[str, Any]) -> None:
    """Take turns until the caller's board says that it is over."""
    import ray
    from ray import train as ray_train

    config, corpus, steps = job["config"], job["corpus"], job["steps"]
    context = ray_train.get_context()
    engine = start_engine(new_model(config), config)
    group = Group(context.get_world_rank(), context.get_world_size(), engine.device)
    done = 0
    while (turn := ray.get(job["board"].turn.remote())) >= 0:
        if turn == done:
            time.sleep(0.05)
            continue
        began_s = time.perf_counter()
        for rows in batches_of(config, corpus, steps):
            train_step(engine, corpus, rows, rate=RATE, config=config, group=group)
        done = turn
        if group.rank == 0:
            ray.get(job["board"].finish.remote(time.perf_counter() - began_s))


class Turns:
    """An actor that says whose turn it is."""

    def __init__(self) -> None:
        self._turn = 0
        self._seconds: list[float] = []

    def turn(self) -> int:
        """Number of the turn that may be taken; -1 when it is over."""
        return self._turn

    def begin(self, turn: int) -> None:
        """Let the workers take turn ``turn``."""
        self._turn = turn

    def finish(self, seconds: float) -> None:
        """A turn took ``seconds``."""
        self._seconds.append(seconds)

    def seconds(self) -> list[float]:
        """Of all turns so far."""
        return self._seconds


# --- theirs: a process per worker, told by its standard input -------------------------------------


def bare_worker(rank: int, file: Path) -> None:
    """A plain loop; each line on standard input is a turn, each line out its seconds."""
    config, corpus, steps = pickle.loads(file.read_bytes())
    world_size = config.num_workers
    distributed.init_process_group(
        "gloo", init_method=f"file://{file}.group", rank=rank, world_size=world_size
    )
    model = new_model(config)
    parallel = torch.nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=RATE, weight_decay=0.0)
    device = torch.device("cpu")
    for _ in sys.stdin:
        began_s = time.perf_counter()
        for rows in batches_of(config, corpus, steps):
            (part,) = worker_parts(rows, passes=1, world_size=world_size, rank=rank)
            loss = correction_loss_sum(parallel, collate(corpus, part), device=device)
            optimizer.zero_grad()
            (loss * world_size / corpus.target_tokens(rows)).backward()
            torch.nn.utils.clip_grad_norm_(parallel.parameters(), 1.0)
            optimizer.step()
        print(time.perf_counter() - began_s, flush=True)


def bare_processes(file: Path, workers: int) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, __file__, "--bare", str(rank), "--file", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **runtime.worker_env()},
        )
        for rank in range(workers)
    ]


def bare_turn(processes: list[subprocess.Popen[str]]) -> float:
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.stdout.readline()) for process in processes if process.stdout)


# --- taking turns ---------------------------------------------------------------------------------


def measure(config: TrainConfig, *, turns: int, steps: int) -> None:
    """Print the medians of both sides as one BENCH line."""
    corpus = corpus_of(config, questions=config.global_batch_size * steps * 2)
    tokens = sum(int(corpus.lengths[rows].sum()) for rows in batches_of(config, corpus, steps))
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.pickle"
        file.write_bytes(pickle.dumps((config, corpus, steps)))
        processes = bare_processes(file, config.num_workers)
        try:
            with runtime.ray_session():
                # The first turn of each warms up.
                for mine, bare in our_and_bare_turns(
                    config, corpus, processes, folder=folder, turns=turns + 1, steps=steps
                ):
                    print(f"ours {tokens / mine:9,.0f}  bare {tokens / bare:9,.0f} tokens/s")
                    ours.append(tokens / mine)
                    theirs.append(tokens / bare)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    mine, bare = statistics.median(ours[1:]), statistics.median(theirs[1:])
    ratio = mine / bare
    verdict = "ok" if ratio >= BAR else "short"
    print(f"BENCH train_tokens_per_s {mine:.0f} {bare:.0f} {ratio:.2f} {BAR} {verdict}")


def our_and_bare_turns(
    config: TrainConfig,
    corpus: Corpus,
    processes: list[subprocess.Popen[str]],
    *,
    folder: str,
    turns: int,
    steps: int,
) -> Any:
    """Seconds of (ours, bare), turn by turn."""
    import threading

    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    board: Any = ray.remote(num_cpus=0)(cast(Any, Turns)).remote()
    job = {"config": config, "corpus": corpus, "steps": steps, "board": board}
    trainer = TorchTrainer(
        cast(Any, our_worker),
        train_loop_config=job,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=config.num_workers),
        run_config=RunConfig(storage_path=folder, name="bench"),
    )
    fit = threading.Thread(target=trainer.fit, daemon=True)
    fit.start()
    for turn in range(1, turns + 1):
        ray.get(board.begin.remote(turn))
        while len(ray.get(board.seconds.remote())) < turn:
            time.sleep(0.1)
        yield ray.get(board.seconds.remote())[-1], bare_turn(processes)
    ray.get(board.begin.remote(-1))
    fit.join()


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare is not None:
        bare_worker(arguments.bare, arguments.file)
        return
    from aligner.config import load

    path, workers = programs.shipped_config("jobs", "train/tiny.yaml"), arguments.workers
    batch = load(TrainConfig, path).global_batch_size
    config = load(
        TrainConfig, path, [f"num_workers={workers}", f"micro_batch_size={batch // workers}"]
    )
    measure(config, turns=arguments.turns, steps=arguments.steps)


if __name__ == "__main__":
    main()
