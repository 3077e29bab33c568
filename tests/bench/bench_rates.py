"""The rates that ``aligner cost`` wants, of vLLM on the machine at hand: a GPU where there is one.

Random weights in the shapes that are asked for; each size is measured in a process of its own.

- reading: 8 prompts of 512 random tokens, nothing cached, one token written after each;
- writing: so many requests in flight, 128 tokens each, by the time beyond that of reading them.

It prints YAML that goes under ``upstreams`` or ``aligners`` of a config, with the price that is
given, and one line per figure; there is no bar.

    python tests/bench/bench_rates.py [--only 30m 110m] [--in-flight 32] [--usd-per-hour 0.05]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import LlamaConfig

PROMPTS, PROMPT_TOKENS, WRITTEN_TOKENS = 8, 512, 128
SHAPES: dict[str, dict[str, int]] = {
    "30m": {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1376},
    "110m": {"hidden_size": 768, "num_hidden_layers": 14, "intermediate_size": 2048},
    "0.5b": {"hidden_size": 1024, "num_hidden_layers": 32, "intermediate_size": 2816},
    "2b": {"hidden_size": 2048, "num_hidden_layers": 36, "intermediate_size": 5632},
    "7b": {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008},
}
DTYPES = {True: "bfloat16", False: "float32"}
"""On a GPU and off it."""
ON_CPU, ON_GPU = ("30m", "110m"), ("0.5b", "2b", "7b")
"""Sizes that say something there and end in minutes."""


def write_shape(folder: Path, name: str) -> None:
    """A folder without weights, which vLLM makes up."""
    shape = SHAPES[name]
    heads = shape["hidden_size"] // 64
    config = LlamaConfig(
        **shape, num_attention_heads=heads, vocab_size=32_000, max_position_embeddings=2048
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)


def measure(name: str, *, in_flight: int, usd_per_hour: float, turns: int) -> dict[str, Any]:
    """One size, as an entry of the config."""
    from vllm import LLM, SamplingParams, TokensPrompt

    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        write_shape(Path(folder), name)
        engine = LLM(
            folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype=DTYPES[gpu],
            max_model_len=PROMPT_TOKENS + WRITTEN_TOKENS,
            max_num_seqs=in_flight,
            enforce_eager=not gpu,
            enable_prefix_caching=False,
            disable_log_stats=True,
        )

    def seconds(prompts: int, length: int, written: int) -> float:
        texts = torch.randint(0, 32_000, (prompts, length)).tolist()
        wanted = SamplingParams(
            max_tokens=written, ignore_eos=True, detokenize=False, temperature=0.0
        )
        asked = [TokensPrompt(prompt_token_ids=one) for one in texts]
        began = time.perf_counter()
        engine.generate(asked, wanted, use_tqdm=False)
        return time.perf_counter() - began

    seconds(in_flight, 16, 4)
    reading, writing = list[float](), list[float]()
    for _ in range(turns):
        reading.append(PROMPTS * PROMPT_TOKENS / seconds(PROMPTS, PROMPT_TOKENS, 1))
        before = seconds(in_flight, 16, 1)
        after = seconds(in_flight, 16, WRITTEN_TOKENS + 1)
        writing.append(in_flight * WRITTEN_TOKENS / (after - before))
    device = torch.cuda.get_device_name() if gpu else f"{threads()} threads of {processor()}"
    return {
        "kind": "measured",
        "prefill_tokens_per_s": round(statistics.median(reading), 1),
        "decode_tokens_per_s": round(statistics.median(writing), 1),
        "usd_per_device_hour": usd_per_hour,
        "measured_on": f"{device}, vLLM, {DTYPES[gpu]}, {in_flight} in flight, {date.today()}",
    }


def threads() -> int:
    """That the arithmetic uses."""
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def processor() -> str:
    """Its name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Parse the command line and measure; each size in a child, for engines leave much behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    usual = ON_GPU if torch.cuda.is_available() else ON_CPU
    parser.add_argument("--only", nargs="*", choices=sorted(SHAPES), default=usual)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--usd-per-hour", type=float, default=0.05, help="of one device")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    found = {}
    for name in given.only:
        if given.here:
            entry = measure(
                name,
                in_flight=given.in_flight,
                usd_per_hour=given.usd_per_hour,
                turns=given.turns,
            )
            print(f"figures: {json.dumps(entry)}")
            return
        defaults = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "2"}
        env = {**defaults, **os.environ}
        options = [f"--{key}={getattr(given, key.replace('-', '_'))}" for key in PASSED]
        command = [sys.executable, __file__, "--here", "--only", name, *options]
        told = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
        line = next(one for one in told.stdout.splitlines() if one.startswith("figures: "))
        found[name] = json.loads(line.removeprefix("figures: "))
        for rate in ("prefill", "decode"):
            per_s = found[name][f"{rate}_tokens_per_s"]
            print(f"BENCH rates_{rate}_{name} {per_s:.4g} 0 nan 0 ok", flush=True)
    print(yaml.safe_dump(found, sort_keys=False))


PASSED = ("in-flight", "turns", "usd-per-hour")


if __name__ == "__main__":
    main()
