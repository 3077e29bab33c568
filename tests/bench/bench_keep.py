"""What a kept answer costs: real vLLM on a CPU, a Llama with random weights in Ray Serve.

- ``keep_N_ms`` (less is better): one whole call of the corrector for an answer of N tokens that it
  keeps, beside one prefill of as many tokens by the bare engine: prompt, copy and EOS. The bar is
  1.3 times the prefill.
- ``keep_N_beside_decoding`` (less is better): the same beside the bare engine's decoding of so many
  tokens behind the prompt, without drafts. There is no bar but 1.

All answers are new, so that nothing is found in a cache. All sides take turns; medians.

    python tests/bench/bench_keep.py [--turns 7] [--vocabulary 4096] [--width 512] [--layers 8]
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import keep_reports
import random_models
import timed_corrector

from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner.runtime_env import free_port
from aligner_serve import runtime
from aligner_serve.config.graph import GraphConfig

LENGTHS = (64, 256, 1024)
BAR = 1.3


def figure(name: str, ours: float, theirs: float, bar: float) -> None:
    """One line of the bench; less is better."""
    ratio = ours / theirs
    verdict = "ok" if ratio <= bar else "short"
    print(f"BENCH {name} {ours:.3g} {theirs:.3g} {ratio:.2f} {bar:g} {verdict}", flush=True)


@contextmanager
def corrector(uri: str, manifest: Manifest) -> Iterator[Any]:
    """A handle of one corrector."""
    config = GraphConfig.model_validate(
        {
            "port": free_port(),
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"up": {}},
            "aligners": {
                "keeps": {
                    "source": {"kind": "path", "uri": uri},
                    "engine": {"dtype": "float32", "copy_speculation_tokens": 0},
                    "sampling": {"max_tokens": 2048},
                }
            },
        }
    )
    with runtime.ray_and_serve(config):
        from ray import cloudpickle, serve

        from aligner_serve import app, release
        from aligner_serve.probe import Pair, Probe

        # Replicas do not find the stand-ins, which are no part of the wheel.
        for module in (random_models, timed_corrector):
            cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
        released = release.resolve(config.aligners["keeps"].source, config.tracking)
        keep_all = keep_reports.calibration(manifest, threshold=-1000.0, dtype="float32")
        released = released.model_copy(update={"keep": keep_all})
        probes = {"keeps": Probe(pairs=(Pair(question="w1", answer="w2"),))}
        applications = app._correctors(
            config, {"keeps": released}, probes, timed_corrector.TimedCorrector
        )
        yield serve.run(applications["keeps"], name="corrector", route_prefix=None)


async def measure(handle: Any, *, turns: int, vocab_size: int) -> None:
    """All figures."""
    for tokens in LENGTHS:
        # The first one warms up.
        seeds = range(1000 * tokens, 1000 * tokens + turns + 1)
        seen = [await handle.turn.remote(tokens, vocab_size, seed) for seed in seeds][1:]
        ms = {way: statistics.median(one[way] for one in seen) for way in seen[0]}
        figure(f"keep_{tokens}_ms", ms["keep"], ms["prefill"], BAR)
        figure(f"keep_{tokens}_beside_decoding", ms["keep"], ms["decode"], 1.0)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    args = parser.parse_args()
    # The handle here outlives the event loop that uses it.
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"
    with tempfile.TemporaryDirectory(prefix="bench-keep-") as folder:
        uri = os.path.join(folder, "export")
        manifest, parameters = random_models.write_export(
            uri, vocab_size=args.vocabulary, width=args.width, layers=args.layers
        )
        assert manifest.prompt_fingerprint == PLAIN.fingerprint
        print(f"{parameters / 1e6:.1f} million parameters, {args.vocabulary} words", flush=True)
        with corrector(uri, manifest) as handle:
            asyncio.run(measure(handle, turns=args.turns, vocab_size=args.vocabulary))


if __name__ == "__main__":
    main()
