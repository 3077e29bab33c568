"""The whole graph over HTTP against the same two vLLM engines with nothing around them.

Gateway, an upstream of kind vllm and a corrector, as they are deployed; the peer drives two engines
with the same settings from one loop, token ids in and out. Both models have 30 million parameters
(``tests/fakes/chain_models.py``), each answer and each correction as many tokens as is asked for,
and both sides write the same ones: that is checked.

- ``composed_plain``: requests per second, 32 in flight, the median of the turns. The bar is 0.9 of
  the peer's.
- ``composed_copying``: likewise where both sides' Aligners draft by copying; nine tenths of each
  correction are copied.

    python tests/bench/bench_composed.py [--turns 3] [--only plain copying]
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import aiohttp
from bare_engines import BareEngines
from chain_models import Chain, question, write_models
from serving import Serving

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.answer_marks import marks_of_all
from aligner.prompt import PLAIN
from aligner.runtime_env import free_port
from aligner.tokens import encode_prompt
from aligner_serve import chat_prompt
from aligner_serve.config.aligner import EngineConfig
from aligner_serve.engine_settings import engine_arguments

BAR = 0.9
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"copy_speculation_tokens": 0}, "copying": {"copy_speculation_tokens": 16},
}  # fmt: skip
"""Of decoding corrections."""
CONTEXT_TOKENS = 512


def graph_of(folder: Path, engine: dict[str, Any], upstream: dict[str, Any]) -> dict[str, Any]:
    """The graph's config, raw."""
    return {
        "port": free_port(),
        "upstreams": {
            "own": {
                "kind": "vllm",
                "model": str(folder / "chat"),
                "engine": upstream,
                "sampling": {"temperature": 0.0, "max_tokens": 400},
                "scaling": {"max_ongoing_requests": 64},
            }
        },
        "aligners": {
            "chain": {
                "source": {"kind": "path", "uri": str(folder / "export")},
                "engine": engine,
                "timeout_s": 100,
                "scaling": {"max_ongoing_requests": 64},
            }
        },
    }


def prompts(folder: Path, chain: Chain, requests: int) -> list[tuple[list[int], list[int]]]:
    """What the graph gives its two engines, request by request."""
    tokenizer = HfTokenizer.load(folder / "export")
    chat = chat_prompt.load(folder / "chat", where="bench")
    answer = " ".join(chain.answer)
    return [
        (
            chat.encode([{"role": "user", "content": question(number)}]),
            encode_prompt(question(number), answer, (), template=PLAIN, tokenizer=tokenizer),
        )
        for number in range(requests)
    ]


async def through_the_graph(
    url: str, begin: int, requests: int, *, in_flight: int, wanted: str
) -> float:
    """Seconds that so many requests took; each must be answered with ``wanted``."""
    left = iter(range(begin, begin + requests))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one_after_the_other() -> None:
            for number in left:
                messages = [{"role": "user", "content": question(number)}]
                body = {"model": "own+chain", "messages": messages}
                async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                    told = await reply.json()
                assert told["choices"][0]["message"]["content"] == wanted, told

        started = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
        return time.perf_counter() - started


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--requests", type=int, default=128, help="of one turn and side")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--changed", type=int, default=13, help="of its tokens, by the Aligner")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--only", nargs="*", choices=sorted(WAYS), default=list(WAYS))
    options = parser.parse_args()
    # GiB for what each engine has read: four of them share this machine's memory.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    for way in options.only:
        with tempfile.TemporaryDirectory(prefix="bench-composed-") as name:
            measure(Path(name), way, options)


def measure(folder: Path, way: str, options: argparse.Namespace) -> None:
    """Both sides, turn by turn."""
    chain = Chain.of(options.tokens, changed=options.changed)
    parameters = write_models(folder, chain, layers=options.layers)
    print(f"{way}: {parameters:,} parameters each", flush=True)
    upstream: dict[str, Any] = {"dtype": "float32", "max_model_len_tokens": CONTEXT_TOKENS}
    engine = {**upstream, **WAYS[way]}
    marks = marks_of_all([(PLAIN, HfTokenizer.load(folder / "export"))])
    bare = BareEngines(
        folder,
        models=(folder / "chat", folder / "export"),
        arguments=(
            engine_arguments(EngineConfig(**upstream), context_tokens=CONTEXT_TOKENS),
            engine_arguments(EngineConfig(**engine), context_tokens=CONTEXT_TOKENS, marks=marks),
        ),
        asked=prompts(folder, chain, (options.turns + 1) * options.requests),
    )
    wanted = " ".join(chain.correction)
    ids = [*HfTokenizer.load(folder / "export").encode(wanted)]
    ours, theirs = list[float](), list[float]()
    with Serving(folder, graph_of(folder, engine, upstream)) as serving, bare:
        for turn in range(options.turns + 1):
            begin, sides = turn * options.requests, {}
            sides["graph"] = asyncio.run(
                through_the_graph(
                    serving.state["url"],
                    begin,
                    options.requests,
                    in_flight=options.in_flight,
                    wanted=wanted,
                )
            )
            sides["bare"], replies = bare.run(begin, options.requests, in_flight=options.in_flight)
            assert all(reply[: len(ids)] == ids for reply in replies), "other tokens were written"
            per_s = {side: options.requests / seconds for side, seconds in sides.items()}
            print(f"turn {turn}: {per_s}{'' if turn else ', not counted'}", flush=True)
            # Connections, routes and caches come into being with the first requests.
            if turn:
                ours.append(per_s["graph"])
                theirs.append(per_s["bare"])
    graph_per_s, bare_per_s = statistics.median(ours), statistics.median(theirs)
    ratio = graph_per_s / bare_per_s
    verdict = "ok" if ratio >= BAR else "short"
    figures = f"{graph_per_s:.3g} {bare_per_s:.3g} {ratio:.2f} {BAR} {verdict}"
    print(f"BENCH composed_{way} {figures}", flush=True)


if __name__ == "__main__":
    main()
