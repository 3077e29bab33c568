"""10,000 drawn requests against the gateway's own description: no 5xx, no reply it does not allow.

The gateway is the real one over engines of fixed latency, in one process. With ``--served`` it
stands in Ray Serve behind HAProxy, as its users meet it. ``--url`` names any other, whose models
must then be called as those of ``tests/fakes/fixed_engines.py``.

    python tests/bench/fuzz_api.py [--examples 2500] [--seed 0] [--served | --url ADDRESS]
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import fixed_engines
import stand_ins
from fixed_corrector import LATENCY_ENV, FixedCorrector
from flaky_api import Faults, FlakyApi
from fuzzing import fuzz

from aligner.runtime_env import free_port


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of a gateway in Ray Serve."""
    with FlakyApi(Faults(latency_s=0.0)) as api, tempfile.TemporaryDirectory() as feedback:
        config = fixed_engines.config(
            base_url=api.base_url,
            upstreams={"iron": {"raw": True, "stream": False}},
            feedback={"uri": feedback},
            port=free_port(),
        )
        os.environ[LATENCY_ENV] = "0"
        with stand_ins.serving(config, corrector=FixedCorrector) as url:
            yield url


def main() -> None:
    """Parse the command line, fuzz, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--examples", type=int, default=2500, help="to each route that takes a body"
    )
    parser.add_argument("--seed", type=int, default=0)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--served", action="store_true", help="in Ray Serve")
    where.add_argument("--url", help="of a gateway that runs")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.served:
            url = stack.enter_context(served())
        else:
            url = options.url or stack.enter_context(fixed_engines.FixedGateway()).url
        started = time.perf_counter()
        fuzzed = fuzz(url, examples=options.examples, seed=options.seed, workers=2)
    took_s = time.perf_counter() - started
    if not fuzzed.clean:
        print(fuzzed.told)
    print(f"{fuzzed.cases} cases in {took_s:.0f} s: {'clean' if fuzzed.clean else 'NOT CLEAN'}")
    sys.exit(not fuzzed.clean)


if __name__ == "__main__":
    main()
