"""A served graph under load that is disturbed: moved aliases, a bad version, killed replicas.

The whole graph as ``aligner serve`` starts it, in a process of its own on loopback: a simulated
upstream, a gateway and a corrector with vLLM on a tiny model that knows its corrections by heart,
so that every reply can be held against what it should be. No part of ``make bench``.

    python tests/bench/soak_serve.py [--requests 10000] [--in-flight 8] [--correctors 1] [--seed 0]
"""

import argparse
import asyncio
import importlib.util
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from aligner.adapters.simworld_http import SimworldServer
from aligner.records import to_columns
from aligner.runtime_env import free_port
from aligner.tracking import TrackingConfig

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "fakes"))

from serve_load import Load  # noqa: E402 - lies beside the tests
from serving import Serving, point, register  # noqa: E402 - lies beside the tests

CORRECTOR = "corrector-known"
MIB = 2**20


def tiny_models() -> Any:
    """The module that trains the tests' models."""
    place = TESTS / "serve" / "conftest.py"
    spec = importlib.util.spec_from_file_location("serve_conftest", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(
    folder: Path, base_url: str, tracking: TrackingConfig, *, correctors: int
) -> dict[str, Any]:
    """Two replicas of whatever is killed, so that there is somebody to go on."""
    two = {"min_replicas": 2, "max_replicas": 2}
    return {
        "port": free_port(),
        "base_url": base_url,
        "upstreams": {"iron": {"sampling": {"temperature": 0.0, "seed": 0}, "scaling": two}},
        "aligners": {
            "known": {
                "source": {"kind": "registry", "model": "known"},
                "probe": {"pairs": str(folder / "golden.jsonl"), "min_similarity": 1.0},
                "engine": {"dtype": "float32"},
                "scaling": {"min_replicas": correctors, "max_replicas": correctors, "num_cpus": 1},
            }
        },
        "gateway": two,
        "watch_s": 1.0,
        "start_timeout_s": 600.0,
        "tracking": tracking.model_dump(),
    }


class Memory:
    """Resident memory of every process of a graph, while it lasts."""

    def __init__(self, serving: Serving, *, every_s: float = 5.0) -> None:
        self.rss_mib: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._serving = serving
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            for pid, name in self._serving.processes().items():
                try:
                    rss = psutil.Process(pid).memory_info().rss / MIB
                except psutil.Error:
                    continue
                self.rss_mib[name, pid].append(rss)

    def report(self) -> list[str]:
        """For each process that lived long enough, its memory early and late."""
        lines = []
        for (name, pid), rss in sorted(self.rss_mib.items()):
            if len(rss) < 12:
                continue
            # The first samples are of a process that still draws in its libraries.
            rest = rss[len(rss) // 5 :]
            part = max(1, len(rest) // 4)
            early, late = statistics.median(rest[:part]), statistics.median(rest[-part:])
            lines.append(f"  {name} {pid}: {early:.0f} -> {late:.0f} MiB over {len(rss)} samples")
        return lines


class Disturbances:
    """What happens to the graph, each at its share of all requests."""

    def __init__(self, serving: Serving, load: Load, tracking: TrackingConfig) -> None:
        self._serving, self._load, self._tracking = serving, load, tracking
        self.steps: list[tuple[str, Callable[[], object], Callable[[], bool]]] = []
        self.log: list[str] = []

    def alias(self, version: str, *, said: str) -> None:
        """Move the alias, and wait until the program says what came of it."""
        name = f"alias to {version}: {said}"
        before = 0

        def move() -> None:
            nonlocal before
            before = self._serving.said.count(said)
            point("champion", version, self._tracking)

        self.steps.append((name, move, lambda: self._serving.said.count(said) > before))

    def kill(self, deployment: str) -> None:
        """Kill one replica, and wait until there are as many as before."""
        killed: list[int] = []
        count = len(self._serving.replicas(deployment))

        def back() -> bool:
            there = self._serving.replicas(deployment)
            return len(there) >= count and killed[0] not in there

        self.steps.append(
            (f"SIGKILL {deployment}", lambda: killed.append(self._serving.kill(deployment)), back)
        )

    async def run(self, requests: int) -> None:
        """One after the other, evenly over all requests."""
        tally = self._load.tally
        for number, (name, act, over) in enumerate(self.steps, 1):
            while tally.done < requests * number / (len(self.steps) + 1):
                await asyncio.sleep(0.2)
            started, lost, errors = time.monotonic(), tally.lost.total(), tally.errors.total()
            await asyncio.to_thread(act)
            at = tally.done
            while not await asyncio.to_thread(over):
                await asyncio.sleep(0.5)
            self.log.append(
                f"  {name}: {time.monotonic() - started:.0f} s, requests {at} to {tally.done}, "
                f"{tally.errors.total() - errors} failed attempts, "
                f"{tally.lost.total() - lost} lost requests"
            )
            print(self.log[-1], flush=True)


async def soak(load: Load, disturbances: Disturbances, requests: int) -> None:
    """At least so many requests, and as many as come while all that is to happen does."""
    happening = asyncio.create_task(disturbances.run(requests))
    running = asyncio.create_task(load.run(100 * requests))
    while load.tally.done < requests or not happening.done():
        await asyncio.sleep(0.2)
    load.end()
    await running
    happening.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--correctors", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    tiny = tiny_models()
    with tempfile.TemporaryDirectory() as name, SimworldServer(seed=tiny.SEED) as simworld:
        folder = Path(name)
        tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="soak")
        known = tiny.known_rows()
        ignorant = [replace(row, correction="No.") for row in known]
        for number, learnt in enumerate((known, known, ignorant), 1):
            uri = str(folder / f"v{number}")
            register(uri, tiny.publish(uri, learnt), tracking)
        point("champion", "1", tracking)
        rows = known[:2]
        golden = [json.dumps(to_columns(row)) for row in rows]
        (folder / "golden.jsonl").write_text("\n".join(golden))
        config = settings(folder, simworld.base_url, tracking, correctors=asked.correctors)
        with Serving(folder, config, patience_s=600) as serving:
            url = serving.state["url"]
            load = Load(url, rows, model="iron+known", in_flight=asked.in_flight, seed=asked.seed)
            memory = Memory(serving)
            disturbances = Disturbances(serving, load, tracking)
            disturbances.alias("2", said="models:/known/2 corrects now")
            for deployment in ("upstream-iron", CORRECTOR, "gateway"):
                disturbances.kill(deployment)
            disturbances.alias("3", said="models:/known/3 is taken back")
            disturbances.alias("1", said="models:/known/1 corrects now")
            started = time.monotonic()
            asyncio.run(soak(load, disturbances, asked.requests))
            took = time.monotonic() - started
            memory.close()
            tally = load.tally
            print(f"{tally.done} requests in {took:.0f} s ({tally.done / took:.1f}/s)")
            print(f"median {statistics.median(tally.seconds):.2f} s, most {max(tally.seconds):.1f}")
            for what in ("outcomes", "versions", "errors", "named", "lost"):
                print(f"{what}: {dict(getattr(tally, what))}")
            print(f"leaks: {tally.leaks}, wrong: {tally.wrong}")
            print("\n".join(["memory:", *memory.report()]))
            print(serving.said)


if __name__ == "__main__":
    main()
