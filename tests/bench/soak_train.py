"""Training that is killed again and again: its worker, its driver, its machine, at random moments.

One run in a cluster of simulated machines is disturbed, another one is left alone. Both must come
to the same losses, and train on every row exactly once in each epoch. No part of ``make bench``.

    python tests/bench/soak_train.py [--kills 10] [--kinds worker,driver,node,notice] [--seed 0]
        [--elastic] [--epochs 30]
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from aligner_jobs import runtime

FAKES = Path(__file__).parents[1] / "fakes"
sys.path.insert(0, str(FAKES))

from made_datasets import published_dataset, simworld_rows  # noqa: E402 - lies beside the tests

MACHINES = 2
BAR = 1e-3
NOTICE_S = 15
QUIET_S = 5.0
"""A kill comes at most so long after steps are heard of again."""
STARTING = 0.3
"""Share of the kills that do not wait for that, and hit what is still starting up."""


def settings(dataset: str, out: Path, *, epochs: int, elastic: bool) -> dict[str, Any]:
    """A run of some hundred short steps with a checkpoint every few."""
    return {
        "dataset": dataset,
        "out": str(out),
        "model": {
            "kind": "scratch", "hidden_size": 64, "layers": 2, "heads": 2,
            "intermediate_size": 96, "vocab_size": 320,
        },
        "warmup": {"epochs": 1, "learning_rate": 1e-3},
        "correction": {"epochs": epochs, "learning_rate": 1e-3},
        "max_length_tokens": 512,
        "global_batch_size": 16,
        "num_workers": 2,
        "min_workers": 1 if elastic else None,
        "precision": "fp32",
        "zero": {"stage": 2},
        "checkpoints": {"every_steps": 5},
        "heldout": {"every_steps": 50, "generate_rows": 0, "sample_rows": 0},
        "max_failures": 100,
        "log_every_steps": 1,
    }  # fmt: skip


class Driver:
    """The driver's process, started again whenever it has been killed; what it says."""

    def __init__(self, config: Path, environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, str(FAKES / "train_driver.py"), str(config)]
        self._environment = {**environment, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.losses: dict[int, list[float]] = {}
        """By step; several where a step was trained more than once."""
        self.result: dict[str, Any] | None = None
        self.restarts = 0
        self._heard = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def wait_for_steps(self) -> None:
        """Until a loss is heard of, or all is over."""
        self._heard.clear()
        while self.running and not self._heard.wait(0.1):
            pass

    def join(self) -> None:
        self._thread.join()

    def _go_on(self) -> None:
        while self._run() != 0 and self.restarts < 50:
            self.restarts += 1

    def _run(self) -> int:
        with subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, text=True
        ) as self._process:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.startswith("{"):
                    self._hear(json.loads(line))
        if (code := self._process.returncode) not in (0, -signal.SIGKILL):
            print(f"the driver ended with code {code}", flush=True)
        return code

    def _hear(self, words: dict[str, Any]) -> None:
        if "loss" in words:
            self.losses.setdefault(words["step"], []).append(words["loss"])
            self._heard.set()
        else:
            self.result = words


class Machines:
    """A cluster of simulated machines: one for the driver, the others to train on and to lose."""

    def __init__(self) -> None:
        runtime.settle_ray()
        # Without cores: nobody trains on the driver's machine.
        head = {"num_cpus": 0, "dashboard_port": runtime.free_port()}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self._others = [self._new() for _ in range(MACHINES)]

    def lose_one(self) -> None:
        """Without warning, as when a spot machine goes; another one comes for it."""
        self._replace(random.choice(self._others))

    def give_notice(self) -> None:
        """Tell Ray that a machine will go, and let it go."""
        victim = random.choice(self._others)
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        subprocess.run(
            [
                *command,
                *("--address", self.cluster.address, "--node-id", victim.node_id),
                *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "soak"),
                *("--deadline-remaining-seconds", str(NOTICE_S)),
            ],
            check=True,
        )
        time.sleep(NOTICE_S)
        self._replace(victim)

    def kill_a_worker(self) -> None:
        """One of the training processes, if any is there at the moment."""
        workers = [p for p in psutil.Process().children(recursive=True) if _trains(p)]
        if workers:
            random.choice(workers).kill()

    def _replace(self, victim: Any) -> None:
        self._others.remove(victim)
        self.cluster.remove_node(victim, allow_graceful=False)
        self._others.append(self._new())

    def _new(self) -> Any:
        return self.cluster.add_node(num_cpus=1)


def _trains(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def disturbed(config: Path, *, kills: int, kinds: list[str]) -> Driver:
    """The run to its end, with ``kills`` kills on the way, of all ``kinds`` in turn."""
    machines = Machines()
    driver = Driver(config, {**os.environ, "RAY_ADDRESS": machines.cluster.address})
    ways: dict[str, Callable[[], None]] = {
        "worker": machines.kill_a_worker,
        "driver": driver.kill,
        "node": machines.lose_one,
        "notice": machines.give_notice,
    }
    order = [kinds[n % len(kinds)] for n in range(kills)]
    random.shuffle(order)
    try:
        for kind in order:
            if random.random() > STARTING:
                driver.wait_for_steps()
            time.sleep(random.uniform(0, QUIET_S))
            if not driver.running:
                break
            print(f"kill {kind}; {len(driver.losses)} steps were heard of", flush=True)
            ways[kind]()
        driver.join()
    finally:
        machines.cluster.shutdown()  # type: ignore[no-untyped-call]
    return driver


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kinds", default="worker,driver,node,notice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--elastic", action="store_true", help="go on with 1 worker, too")
    chosen = parser.parse_args()
    random.seed(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="aligner-soak-") as name:
        folder = Path(name)
        rows = simworld_rows(40), simworld_rows(10, split="heldout")
        dataset = published_dataset(folder / "dataset", *rows)
        runs = {}
        for run in ("alone", "killed"):
            config = folder / f"{run}.json"
            made = settings(dataset, folder / run, epochs=chosen.epochs, elastic=chosen.elastic)
            config.write_text(json.dumps(made))
            began_s = time.monotonic()
            if run == "alone":
                runs[run] = Driver(config, os.environ)
                runs[run].join()
            else:
                kinds = chosen.kinds.split(",")
                runs[run] = disturbed(config, kills=chosen.kills, kinds=kinds)
            print(f"{run}: {time.monotonic() - began_s:.0f} s", flush=True)
        sys.exit(compare(runs["alone"], runs["killed"]))


def compare(alone: Driver, killed: Driver) -> int:
    """Print what became of both; 0 if they agree."""
    if alone.result is None or killed.result is None:
        print("BENCH soak_train did not come to its end short", flush=True)
        return 1
    last = max(alone.losses)
    apart = max(
        abs(loss - alone.losses[step][0]) for step, found in killed.losses.items() for loss in found
    )
    final = abs(killed.losses[last][-1] - alone.losses[last][0])
    same_rows = alone.result["epochs"] == killed.result["epochs"]
    ok = final <= BAR and same_rows
    again = sum(len(found) - 1 for found in killed.losses.values())
    print(
        f"{last} steps, {again} of them heard of more than once, {killed.restarts} drivers lost; "
        f"no loss of any step is more than {apart:.2g} apart; "
        f"the same rows in each of {len(killed.result['epochs'])} epochs: {same_rows}"
    )
    print(f"BENCH soak_train {final:.2g} 0 - {BAR:g} {'ok' if ok else 'short'}", flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    main()
