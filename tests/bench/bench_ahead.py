"""How soon a correction begins when the corrector has read the answer while it was written.

The whole graph over HTTP: an upstream that streams at a set pace, a corrector with real vLLM on a
CPU, a Llama with random weights. What is measured is the time from the upstream's last word to the
first piece of a correction at the client.

- ``ahead_N_ms``: for answers of N tokens with ``prefill_ahead``, beside the same graph without it;
  the ratio is how many times sooner. At 1,024 tokens the bar is 5; at 256 there is none but 1.
- ``ahead_extra_tokens``: tokens that were read ahead for an answer of 1,024, beside those of its
  whole prompt. What is read ahead is not read again, so the bar is 1.1.

All answers are new. Both sides take turns; medians.

    python tests/bench/bench_ahead.py [--turns 7] [--words-per-s 200] [--width 512] [--layers 8]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import httpx
import random_models
from paced_api import PacedApi
from serving import Serving

from aligner.runtime_env import free_port

LENGTHS = (256, 1024)
BARS = {256: 1.0, 1024: 5.0}
MOST_EXTRA = 1.1
SIDES: dict[str, dict[str, Any]] = {"ahead": {"prefill_ahead": {}}, "plain": {}}


def graph(uri: str, base_url: str) -> dict[str, Any]:
    """The graph's config, raw: the same aligner twice, each with an engine of its own."""
    settings = {
        "source": {"kind": "path", "uri": uri},
        "engine": {"dtype": "float32", "copy_speculation_tokens": 0},
        "sampling": {"max_tokens": 2048},
        # What nobody has trained comes to no end, and the built-in probe waits for one.
        "probe": {"min_share": 0.0},
        "timeout_s": 5.0,
    }
    return {
        "port": free_port(),
        "base_url": base_url,
        "upstreams": {"paced": {}},
        "aligners": {name: {**settings, **changes} for name, changes in SIDES.items()},
    }


def sooner_ms(url: str, api: PacedApi, side: str, question: str) -> float:
    """Milliseconds from the answer's last word to the correction's first."""
    body = {
        "model": f"paced+{side}",
        "stream": True,
        "messages": [{"role": "user", "content": question}],
    }
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
            if delta.get("content"):
                # Leaving the block ends the correction, too.
                return 1000 * (time.perf_counter() - api.last_at[question])
    raise AssertionError("no correction came")


def counted(url: str, name: str) -> float:
    """A metric of the aligner that reads ahead."""
    # Ray's agents hear of it a little later.
    time.sleep(4)
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    found = [line for line in lines if line.startswith(name) and 'name="ahead"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def figure(name: str, ours: float, theirs: float, ratio: float, bar: float, *, ok: bool) -> None:
    """One line of the bench."""
    print(f"BENCH {name} {ours:.3g} {theirs:.3g} {ratio:.2f} {bar:g} {'ok' if ok else 'short'}")


def measure(url: str, api: PacedApi, turns: int) -> None:
    """All figures."""
    for side in SIDES:
        sooner_ms(url, api, side, "first 64")
    read = 0.0
    for length in LENGTHS:
        before = counted(url, "aligner_read_ahead_tokens")
        taken: dict[str, list[float]] = {side: [] for side in SIDES}
        for turn in range(turns):
            for side in SIDES:
                taken[side].append(sooner_ms(url, api, side, f"{side} {turn} {length}"))
        read = (counted(url, "aligner_read_ahead_tokens") - before) / turns
        print(f"{length} tokens: {taken}, {read:.0f} read ahead", flush=True)
        ours, theirs = (statistics.median(taken[side]) for side in ("ahead", "plain"))
        ratio = theirs / ours
        figure(f"ahead_{length}_ms", ours, theirs, ratio, BARS[length], ok=ratio >= BARS[length])
    ratio = read / LENGTHS[-1]
    figure("ahead_extra_tokens", read, LENGTHS[-1], ratio, MOST_EXTRA, ok=0 < ratio <= MOST_EXTRA)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--words-per-s", type=float, default=200.0)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aligner-bench-") as scratch:
        uri = str(Path(scratch) / "export")
        _, parameters = random_models.write_export(
            uri, vocab_size=options.vocabulary, layers=options.layers, width=options.width
        )
        print(f"{parameters / 1e6:.0f} million parameters", flush=True)
        with (
            PacedApi(options.words_per_s, vocabulary=options.vocabulary) as api,
            Serving(Path(scratch), graph(uri, api.base_url)) as serving,
        ):
            measure(serving.state["url"], api, options.turns)


if __name__ == "__main__":
    main()
