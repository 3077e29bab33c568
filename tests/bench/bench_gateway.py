"""What the gateway costs: the real graph in Ray Serve over engines that take 50 ms each.

The upstream is an API in a process of its own; the corrector is a deployment that sleeps and gives
the answer back. The peer is a LiteLLM proxy that asks the same API twice for each request, from a
hook; it is made in an environment of its own under ``~/.cache/aligner/bench`` on first use.

- ``gateway_overhead_ms``: one request in flight, the median beyond that of calling both stages
  directly; the peer's beside it. The bar is 10 ms.
- ``gateway_requests_per_s``: 64 requests in flight. The bar is twice the peer's.
- ``gateway_first_byte_ms``: streams, one in flight: from the first piece's leaving the corrector to
  its arrival at the client, the median. The bar is 10 ms; the peer streams no corrections.

All sides take turns; the figures are medians of the turns.

    python tests/bench/bench_gateway.py [--turns 3] [--litellm-workers 1]
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import stand_ins
from fixed_corrector import LATENCY_ENV, FixedCorrector
from flaky_api import Faults, FlakyApi
from gateway_load import load
from litellm_proxy import MODEL, proxy

from aligner.runtime_env import free_port
from aligner_serve.config.graph import GraphConfig

LATENCY_S = 0.05
ALONE = 100
"""Requests of a turn with one in flight."""
TOGETHER = 1500
"""Requests of a turn with 64 in flight."""


def figure(name: str, ours: float, theirs: float, bar: float, *, ok: bool) -> None:
    """One line of the bench."""
    ratio = ours / theirs if theirs else float("nan")
    verdict = "ok" if ok else "short"
    print(f"BENCH {name} {ours:.3g} {theirs:.3g} {ratio:.2f} {bar:g} {verdict}", flush=True)


def graph(base_url: str) -> GraphConfig:
    """One upstream behind an API, and one aligner."""
    return GraphConfig.model_validate(
        {
            "port": free_port(),
            "base_url": base_url,
            # The API here does not stream, and neither side needs it to.
            "upstreams": {"up": {"stream": False}},
            "aligners": {
                "fixed": {
                    "source": {"kind": "path", "uri": "nowhere"},
                    "scaling": {"max_ongoing_requests": 128, "num_cpus": 1},
                }
            },
        }
    )


class Turns:
    """What each side came to, turn by turn."""

    def __init__(self) -> None:
        self.alone_ms: dict[str, list[float]] = {"direct": [], "ours": [], "theirs": []}
        self.per_s: dict[str, list[float]] = {"ours": [], "theirs": []}
        self.first_byte_ms: list[float] = []
        self.failed = 0

    def take(self, api: str, ours: str, theirs: str) -> None:
        """One of each."""
        sides = {
            "direct": [(api, "up"), (api, "corrector")],
            "ours": [(ours, "up+fixed")],
            "theirs": [(theirs, MODEL)],
        }
        for name, stages in sides.items():
            seen = load(*stages, in_flight=1, requests=ALONE)
            self.alone_ms[name].append(seen.median_ms)
            self.failed += seen.failed
        for name in self.per_s:
            seen = load(*sides[name], in_flight=64, requests=TOGETHER)
            self.per_s[name].append(seen.per_s)
            self.failed += seen.failed
        seen = load(*sides["ours"], in_flight=1, requests=ALONE, stream=True)
        assert seen.first_byte_ms is not None
        self.first_byte_ms.append(seen.first_byte_ms)
        print(f"alone {self.alone_ms}, together {self.per_s}, first byte {self.first_byte_ms}")

    def tell(self) -> None:
        """The figures."""
        alone = {name: statistics.median(values) for name, values in self.alone_ms.items()}
        together = {name: statistics.median(values) for name, values in self.per_s.items()}
        ours_ms, theirs_ms = (alone[name] - alone["direct"] for name in ("ours", "theirs"))
        whole = self.failed == 0
        figure("gateway_overhead_ms", ours_ms, theirs_ms, 10, ok=ours_ms <= 10 and whole)
        ratio = together["ours"] / together["theirs"]
        figure(
            "gateway_requests_per_s",
            together["ours"],
            together["theirs"],
            2,
            ok=ratio >= 2 and whole,
        )
        first = statistics.median(self.first_byte_ms)
        figure("gateway_first_byte_ms", first, 0, 10, ok=first <= 10 and whole)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--litellm-workers", type=int, default=1)
    options = parser.parse_args()
    os.environ[LATENCY_ENV] = str(LATENCY_S)
    with (
        FlakyApi(Faults(latency_s=LATENCY_S)) as api,
        proxy(api.base_url, workers=options.litellm_workers) as theirs,
        stand_ins.serving(graph(api.base_url), corrector=FixedCorrector) as served,
    ):
        ours = f"{served}/v1"
        # Connections, routes and caches come into being with the first requests.
        for address, model in ((ours, "up+fixed"), (theirs, MODEL)):
            load((address, model), in_flight=64, requests=300)
        turns = Turns()
        for _ in range(options.turns):
            turns.take(api.base_url, ours, theirs)
    turns.tell()


if __name__ == "__main__":
    main()
