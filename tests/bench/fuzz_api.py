"""10,000 drawn requests against the gateway's own description: no 5xx, no reply it does not allow.

The gateway is the real one over engines of fixed latency, unless ``--url`` names another, whose
models must then be called as those of ``tests/fakes/fixed_engines.py``.

    python tests/bench/fuzz_api.py [--examples 2500] [--seed 0] [--url http://127.0.0.1:8000]
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from fixed_engines import FixedGateway
from fuzzing import fuzz


def main() -> None:
    """Parse the command line, fuzz, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--examples", type=int, default=2500, help="to each route that takes a body"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(FixedGateway()).url
        started = time.perf_counter()
        fuzzed = fuzz(url, examples=options.examples, seed=options.seed, workers=2)
    took_s = time.perf_counter() - started
    if not fuzzed.clean:
        print(fuzzed.told)
    print(f"{fuzzed.cases} cases in {took_s:.0f} s: {'clean' if fuzzed.clean else 'NOT CLEAN'}")
    sys.exit(not fuzzed.clean)


if __name__ == "__main__":
    main()
