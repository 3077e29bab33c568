"""Replicas that come and go with the load: a ramp and a burst of real lengths through a graph.

The graph is the real one in Ray Serve, over HTTP, with engines that take their time and no
processor (``tests/fakes/paced_engines.py``). Requests come as a Poisson process, whether earlier
ones are answered or not, with the lengths of the data sets beside the project. The peer is the same
graph under the same load with one replica of each; ``--peer requests`` has replicas follow the
number of requests instead, as Ray Serve does by itself, here with a target that fits the engines.

- ``scaling_lost``: requests without a whole correction; beside the peer's. The bar is 0.
- ``scaling_first_s``: from asking to the first corrected token, nine of ten. The bar is half the
  peer's.
- ``scaling_replica_s``: what it took of replicas, beside the peer's; no bar, for it buys the time.
- ``scaling_apart``: most replicas of the upstream under questions to it alone, beside those of the
  corrector, which must stay at 1.
- ``scaling_drained``: replicas of either when the load has ended. The bar is 1.

    python tests/bench/bench_scaling.py [--data DIR] [--peer fixed]
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import open_load
import stand_ins
from open_load import Asked, Pair, Stretch
from paced_engines import PacedCorrector, PacedUpstream

from aligner.runtime_env import free_port
from aligner_serve.config.graph import GraphConfig

MODEL = "own+paced"
RAW = "own"
DAY = [
    Stretch(10, 0.5, 0.5),
    # A ramp, a steady height, a burst on top of it, and few again, among whom replicas go.
    Stretch(20, 0.5, 6),
    Stretch(15, 6, 6),
    Stretch(5, 16, 16),
    Stretch(30, 1, 1),
]
ALONE = [Stretch(15, 6, 6)]
"""For one of the two deployments."""
BY_LOAD = {"max_replicas": 4, "target_queued_tokens": 1500, "target_first_token_s": 0.75}
PEERS: dict[str, dict[str, Any]] = {
    "fixed": {"max_replicas": 1},
    # An engine here writes 8 texts at the same time.
    "requests": {
        "max_replicas": 4,
        "target_queued_tokens": None,
        "target_first_token_s": None,
        "target_ongoing_requests": 8,
    },
}
DRAINED_S = 40.0
"""Until replicas that nobody needs are gone: delays, and the requests that they finish."""


def figure(name: str, ours: float, theirs: float, bar: float, *, ok: bool) -> None:
    """One line of the bench."""
    ratio = ours / theirs if theirs else float("nan")
    verdict = "ok" if ok else "short"
    print(f"BENCH {name} {ours:.3g} {theirs:.3g} {ratio:.2f} {bar:g} {verdict}", flush=True)


@dataclass
class Watched:
    """What a load came to."""

    asked: list[Asked]
    replicas: dict[str, list[int]] = field(default_factory=dict)
    """By deployment, twice a second."""

    @property
    def lost(self) -> list[str]:
        """Why requests are."""
        return [one.trouble for one in self.asked if one.trouble is not None]

    def first_s(self, share: float) -> float:
        """That ``share`` of the requests waited at most for a first token."""
        waits = sorted(one.first_s for one in self.asked if one.first_s is not None)
        return waits[min(len(waits) - 1, int(share * len(waits)))]

    @property
    def replica_s(self) -> float:
        """Seconds of replicas, of both deployments."""
        return sum(sum(counts) for counts in self.replicas.values()) / 2


def graph_config(targets: dict[str, Any]) -> GraphConfig:
    """One upstream and one corrector, which scale apart."""
    scaling = {
        "num_cpus": 0.1, "max_ongoing_requests": 64,
        "max_queued_requests": 512, "look_back_s": 2, "upscale_delay_s": 1,
        "downscale_delay_s": 6, **targets,
    }  # fmt: skip
    return GraphConfig.model_validate(
        {
            "port": free_port(),
            "upstreams": {
                RAW: {"kind": "vllm", "model": "nowhere", "raw": True, "scaling": scaling}
            },
            "aligners": {
                "paced": {
                    "source": {"kind": "path", "uri": "nowhere"},
                    "scaling": scaling,
                    "timeout_s": 100,
                }
            },
            "gateway": {"max_ongoing_requests": 512, "target_ongoing_requests": 256},
        }
    )


@contextmanager
def graph(targets: dict[str, Any]) -> Iterator[str]:
    """The address of the gateway's API."""
    with stand_ins.serving(
        graph_config(targets), corrector=PacedCorrector, upstream_engine=PacedUpstream
    ) as url:
        yield f"{url}/v1"


async def watched(url: str, model: str, mix: Sequence[Pair], stretches: list[Stretch]) -> Watched:
    """Load it and look at its replicas meanwhile."""
    loading = asyncio.create_task(open_load.load(url, model, mix, stretches, seed=0))
    seen = Watched([])
    while not loading.done():
        for name, count in (await asyncio.to_thread(running)).items():
            seen.replicas.setdefault(name, []).append(count)
        await asyncio.sleep(0.5)
    seen.asked = await loading
    print(
        f"{model}: {len(seen.asked)} requests, {len(seen.lost)} lost {sorted(set(seen.lost))}, "
        f"first token {seen.first_s(0.5):.2f} s (half) {seen.first_s(0.9):.2f} s (nine of ten), "
        f"{seen.replica_s:.0f} replica-seconds"
    )
    for name, counts in seen.replicas.items():
        print(f"  {name}: {''.join(map(str, counts))}")
    return seen


def running() -> dict[str, int]:
    """Replicas by deployment."""
    from ray import serve

    found = {}
    for name in (f"upstream-{RAW}", "corrector-paced"):
        states = serve.status().applications["aligner"].deployments[name].replica_states
        found[name] = {str(state): count for state, count in states.items()}.get("RUNNING", 0)
    return found


async def drained() -> dict[str, int]:
    """Replicas when each deployment has one, or after a while."""
    limit = time.monotonic() + DRAINED_S
    while (found := await asyncio.to_thread(running)) and time.monotonic() < limit:
        if set(found.values()) == {1}:
            break
        await asyncio.sleep(0.5)
    return found


def most(seen: Watched, name: str) -> int:
    """Replicas of a deployment at once."""
    return max(seen.replicas[name])


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=beside)
    parser.add_argument("--peer", choices=sorted(PEERS), default="fixed")
    given = parser.parse_args()
    data = given.data
    if not data.is_dir():
        print(f"no data sets at {data}: nothing is measured")
        return
    mix = open_load.pairs(data)

    async def ours(url: str) -> tuple[Watched, Watched, dict[str, int]]:
        day = await watched(url, MODEL, mix, DAY)
        await drained()
        raw = await watched(url, RAW, mix, ALONE)
        return day, raw, await drained()

    with graph(BY_LOAD) as url:
        day, raw, left = asyncio.run(ours(url))
    with graph(PEERS[given.peer]) as url:
        theirs = asyncio.run(watched(url, MODEL, mix, DAY))
    lost = len(day.lost) + len(raw.lost)
    figure("scaling_lost", lost, len(theirs.lost), 0, ok=lost == 0)
    ours_s, theirs_s = day.first_s(0.9), theirs.first_s(0.9)
    figure("scaling_first_s", ours_s, theirs_s, 0.5, ok=ours_s <= 0.5 * theirs_s)
    figure("scaling_replica_s", day.replica_s, theirs.replica_s, 0, ok=True)
    up, down = most(raw, f"upstream-{RAW}"), most(raw, "corrector-paced")
    figure("scaling_apart", up, down, 2, ok=up >= 2 and down == 1)
    figure("scaling_drained", max(left.values()), 1, 1, ok=max(left.values()) == 1)


if __name__ == "__main__":
    main()
