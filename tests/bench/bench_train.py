"""Training, target tokens/s: our step beside three peers on the same rows, model and cores.

- ``train_vs_bare``: a loop of PyTorch alone over the very same packs.
- ``train_vs_padded``: the usual loop, rows padded to the longest of their micro batch.
- ``train_vs_trl``: TRL's SFTTrainer with packing.

Ours is ``train_step`` on a DeepSpeed engine in a worker of Ray Train. All sides stay up and take
turns, an epoch each, so that a busy machine disturbs them alike; start-up and the first turn are
not counted, and the ratio is the median of those of single turns. The rows are preference pairs of
hh-rlhf, where ``--hh`` finds them, or texts of such lengths.

    python tests/bench/bench_train.py [--turns 5] [--rows 32] [--cores 2] [--zero 0] [--hh FILE]
"""

import argparse
import itertools
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import training_peers
from training_peers import RATE, SIDES, Job

from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner_jobs import runtime, sources
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.objective import CorrectionObjective
from aligner_jobs.config.sources import PreferenceSource
from aligner_jobs.config.train import TrainConfig, Zero
from aligner_jobs.train.corpus import local_corpus
from aligner_jobs.train.encoding import EncodeRows
from aligner_jobs.train.engine import start_engine, train_step
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.objectives import CrossEntropy
from aligner_jobs.train.tokenizer import train_tokenizer

HH = Path(__file__).resolve().parents[3] / "shared/data/hh_harmless_test.jsonl.gz"
BARS = {"bare": 0.95, "padded": 1.8, "trl": 1.0}
MODEL = ScratchModel(
    kind="scratch",
    hidden_size=512,
    layers=8,
    heads=8,
    intermediate_size=1408,
    vocab_size=4096,
)
"""28 million parameters."""
PACK_TOKENS = 2048


# --- the work -------------------------------------------------------------------------------------


def hh_rows(file: Path) -> list[Triple]:
    """Preference pairs as build-dataset reads them."""
    source = PreferenceSource(kind="preference", layout="transcript", path=str(file))
    found = [
        item.row
        for piece in sources.pieces("hh", source)
        for item in sources.read(piece, seed=0, max_bad_share=0.1)
        if isinstance(item, sources.Item)
    ]
    return [row for row in found if isinstance(row, Triple)]


def drawn_rows(count: int) -> list[Triple]:
    """Made up, with lengths as in hh-rlhf."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("aeioulnrst"), 5)) for _ in range(2000)]

    def text(median_words: int, spread: float) -> str:
        length = max(1, int(random.lognormal(np.log(median_words), spread)))
        return " ".join(random.choice(words, length))

    return [Triple(text(60, 0.9), text(27, 1.0), text(21, 1.0)) for _ in range(count)]


def job_of(settings: argparse.Namespace) -> Job:
    """Rows that fit, drawn at random; the tokenizer has seen many more."""
    everything = hh_rows(settings.hh) if settings.hh.is_file() else drawn_rows(2000)
    config = TrainConfig(
        dataset="none",
        out="none",
        model=MODEL,
        global_batch_size=16,
        micro_batch_size=8,
        micro_batch_tokens=PACK_TOKENS,
        max_length_tokens=PACK_TOKENS,
        cpus_per_worker=settings.cores,
        precision="fp32",
        zero=Zero(stage=settings.zero),
    )
    tokenizer = train_tokenizer(everything, template=PLAIN, vocab_size=MODEL.vocab_size)
    encode = EncodeRows(
        tokenizer=tokenizer,
        template=PLAIN,
        objective=CorrectionObjective(),
        max_tokens=config.max_length_tokens,
    )
    order = np.random.default_rng(0).permutation(len(everything))
    rows = [everything[number] for number in order[: settings.rows]]
    corpus, _ = local_corpus([encode.table(rows)])
    return Job(config, tokenizer, corpus)


# --- ours: in a worker of the group ---------------------------------------------------------------


def our_worker(task: dict[str, Any]) -> None:
    """Take turns until the caller's board says that it is over."""
    import ray

    job, board = task["job"], task["board"]
    engine = start_engine(job.model(packing=True), job.config)
    group = Group(0, 1, engine.device)
    done = 0
    while (turn := ray.get(board.turn.remote())) >= 0:
        if turn == done:
            time.sleep(0.05)
            continue
        began_s = time.perf_counter()
        for rows in job.batches():
            train_step(
                engine,
                job.corpus,
                rows,
                loss=CrossEntropy(),
                rate=RATE,
                config=job.config,
                group=group,
            )
        done = turn
        ray.get(board.finish.remote(time.perf_counter() - began_s))


class Turns:
    """An actor that says whose turn it is."""

    def __init__(self) -> None:
        self._turn = 0
        self._seconds: list[float] = []

    def turn(self) -> int:
        """Number of the turn that may be taken; -1 when it is over."""
        return self._turn

    def begin(self, turn: int) -> None:
        """Let the worker take turn ``turn``."""
        self._turn = turn

    def finish(self, seconds: float) -> None:
        """A turn took ``seconds``."""
        self._seconds.append(seconds)

    def seconds(self) -> list[float]:
        """Of all turns so far."""
        return self._seconds


@contextmanager
def our_side(job: Job, folder: Path) -> Iterator[Iterator[float]]:
    """Seconds of each turn that is asked for."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # Workers do not have the folder that it lies in.
    ray.cloudpickle.register_pickle_by_value(training_peers)  # type: ignore[no-untyped-call]
    with runtime.ray_session():
        board: Any = ray.remote(num_cpus=0)(cast(Any, Turns)).remote()
        trainer = TorchTrainer(
            cast(Any, our_worker),
            train_loop_config={"job": job, "board": board},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=1, resources_per_worker={"CPU": job.config.cpus_per_worker}
            ),
            run_config=RunConfig(storage_path=str(folder), name="bench"),
        )
        fit = threading.Thread(target=trainer.fit, daemon=True)
        fit.start()

        def take() -> Iterator[float]:
            for turn in itertools.count(1):
                ray.get(board.begin.remote(turn))
                while len(found := ray.get(board.seconds.remote())) < turn:
                    if not fit.is_alive():
                        raise SystemExit("our side failed")
                    time.sleep(0.1)
                yield found[-1]

        yield take()
        ray.get(board.begin.remote(-1))
        fit.join()


# --- theirs ---------------------------------------------------------------------------------------


@contextmanager
def their_side(name: str, file: Path, threads: int) -> Iterator[Iterator[float]]:
    """The same for a peer in a process of its own."""
    command = [sys.executable, training_peers.__file__, name, str(file)]
    env = {
        **os.environ,
        **runtime.worker_env(),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": str(threads),
    }
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:

        def take() -> Iterator[float]:
            assert process.stdin and process.stdout
            while True:
                process.stdin.write("go\n")
                process.stdin.flush()
                lines = iter(process.stdout.readline, "")
                line = next((line for line in lines if line.startswith("TURN ")), None)
                if line is None:
                    raise SystemExit(f"{name} failed")
                yield float(line.split()[1])

        try:
            yield take()
        finally:
            process.kill()


# --- both -----------------------------------------------------------------------------------------


def measure(job: Job, peers: list[str], *, turns: int) -> None:
    """Print a BENCH line for each peer; the first turn of each side warms up."""
    targets = job.corpus.target_tokens(np.arange(len(job.corpus)))
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        file = Path(name) / "job.pickle"
        file.write_bytes(pickle.dumps(job))
        sides = {"ours": running.enter_context(our_side(job, Path(name)))}
        for peer in peers:
            sides[peer] = running.enter_context(their_side(peer, file, job.config.cpus_per_worker))
        for _ in range(turns + 1):
            for side, seconds in sides.items():
                rates[side].append(targets / next(seconds))
                print(f"{side:>6} {rates[side][-1]:9,.0f} target tokens/s", flush=True)
    for peer in peers:
        line(peer, rates["ours"][1:], rates[peer][1:])


def line(peer: str, ours: list[float], theirs: list[float]) -> None:
    """Medians of both, and the median of the ratios of turns."""
    ratio = statistics.median(one / two for one, two in zip(ours, theirs, strict=True))
    verdict = "ok" if ratio >= BARS[peer] else "short"
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"BENCH train_vs_{peer} {mine:.0f} {other:.0f} {ratio:.2f} {BARS[peer]} {verdict}")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--zero", type=int, choices=range(4), default=0)
    parser.add_argument("--hh", type=Path, default=HH)
    parser.add_argument("--only", nargs="*", choices=sorted(SIDES), default=sorted(SIDES))
    arguments = parser.parse_args()
    job = job_of(arguments)
    lengths = job.corpus.lengths
    print(
        f"{len(lengths)} rows, {lengths.sum()} tokens, median {np.median(lengths):.0f}, "
        f"longest {lengths.max()}; ZeRO {arguments.zero}, {arguments.cores} threads"
    )
    measure(job, arguments.only, turns=arguments.turns)


if __name__ == "__main__":
    main()
