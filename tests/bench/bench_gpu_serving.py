"""What makes correcting fast, on a GPU: KEEP, drafts by copying and prefill ahead, in vLLM itself.

The model is ``tests/fakes/chain_models.py`` in the shape of 2B, in bf16: its corrections change the
first tenth of an answer and copy the rest, and nobody has to train it. Without a GPU it says so and
measures nothing; ``--cpu`` tries the script itself with a small shape.

- ``gpu_keep_<tokens>_ms``: scoring an answer of so many tokens against reading the same tokens; the
  bar is 1.3. What decoding it takes is told beside it.
- ``gpu_copying_<in flight>``: corrected tokens per second with drafts against without; the bar is 3
  with one in flight, and 0.98 with 32.
- ``gpu_ahead_<tokens>_ms``: first token of a pair that was read all but its end, against one that
  was not; the bar is a fifth at 1,024.

    python tests/bench/bench_gpu_serving.py [--turns 5] [--layers 36 --width 2048]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import torch
from chain_models import Chain, question, write_models

from aligner.adapters import vllm_scoring
from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.answer_marks import marks_of_all
from aligner.prompt import PLAIN
from aligner.tokens import encode_prompt
from aligner_serve.config.aligner import EngineConfig
from aligner_serve.engine_settings import engine_arguments

LENGTHS = (64, 256, 1024)
TAIL = 32
"""Tokens that prefill ahead leaves."""
DECODED, IN_FLIGHT = 256, (1, 32)
CONTEXT_TOKENS = 4096


class Bench:
    """One engine and the prompts for it."""

    def __init__(self, folder: Path, *, copying: bool, gpu: bool) -> None:
        from vllm import LLM

        export = folder / "export"
        self.tokenizer = HfTokenizer.load(export)
        settings = EngineConfig(
            copy_speculation_tokens=16 if copying else 0,
            num_gpus=int(gpu),
            enforce_eager=not gpu,
            max_model_len_tokens=CONTEXT_TOKENS,
        )
        marks = marks_of_all([(PLAIN, self.tokenizer)]) if copying else []
        arguments = engine_arguments(settings, context_tokens=CONTEXT_TOKENS, marks=marks)
        self._engine = LLM(str(export), **arguments, **vllm_scoring.engine_arguments())
        self._engine.collective_rpc(vllm_scoring.Scoring.score_in_pieces.__name__)
        self._asked = 0

    def prompt(self, answer: str) -> list[int]:
        """A pair that nothing of is cached."""
        self._asked += 1
        return encode_prompt(
            question(self._asked), answer, (), template=PLAIN, tokenizer=self.tokenizer
        )

    def ms(self, prompts: list[list[int]], tokens: int, **wanted: Any) -> tuple[float, int]:
        """How long they take together, and how many tokens were written."""
        from vllm import SamplingParams, TokensPrompt

        sampling = SamplingParams(max_tokens=tokens, temperature=0.0, detokenize=False, **wanted)
        asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        began = time.perf_counter()
        found = self._engine.generate(asked, sampling, use_tqdm=False)
        written = sum(len(one.outputs[0].token_ids) for one in found)
        return 1000 * (time.perf_counter() - began), written


def measured(bench: Bench, chain: Chain, *, copying: bool, turns: int) -> dict[str, float]:
    """Medians by name."""
    found: dict[str, float] = {}
    said = list(chain.answer)
    if not copying:
        for length in LENGTHS:
            found |= _reading(bench, " ".join(said[-length:]), length, turns=turns)
    # A correction begins with the chain's first word, so only the whole answer is corrected.
    for together in IN_FLIGHT:

        def per_s(together: int = together) -> float:
            prompts = [bench.prompt(" ".join(said)) for _ in range(together)]
            ms, written = bench.ms(prompts, DECODED)
            return 1000 * written / ms

        found[f"decode_{together}"] = median(per_s, turns=turns)
    return found


def _reading(bench: Bench, answer: str, length: int, *, turns: int) -> dict[str, float]:
    copy = [*bench.tokenizer.encode(answer), bench.tokenizer.eos_token_id]

    def read() -> float:
        return bench.ms([[*bench.prompt(answer), *copy]], 1)[0]

    def keep() -> float:
        prompt = bench.prompt(answer)
        wanted = vllm_scoring.request_arguments(len(prompt))
        return bench.ms([[*prompt, *copy]], 1, **wanted)[0]

    def ahead() -> float:
        prompt = bench.prompt(answer)
        bench.ms([prompt[:-TAIL]], 1)
        return bench.ms([prompt], 1)[0]

    return {
        f"read_{length}": median(read, turns=turns),
        f"keep_{length}": median(keep, turns=turns),
        f"first_{length}": median(lambda: bench.ms([bench.prompt(answer)], 1)[0], turns=turns),
        f"ahead_{length}": median(ahead, turns=turns),
        f"write_{length}": median(
            lambda: bench.ms([bench.prompt(answer)], length, ignore_eos=True)[0], turns=turns
        ),
    }


def median(once: Callable[[], float], *, turns: int) -> float:
    """Of so many turns, behind one that does not count."""
    return statistics.median([once() for _ in range(turns + 1)][1:])


def tell(plain: dict[str, float], copying: dict[str, float]) -> None:
    """The figures."""
    for length in LENGTHS:
        keep, read = plain[f"keep_{length}"], plain[f"read_{length}"]
        figure(f"gpu_keep_{length}_ms", keep, read, 1.3, ok=keep <= 1.3 * read)
        print(f"  decoding it: {plain[f'write_{length}']:.0f} ms")
    for together, bar in zip(IN_FLIGHT, (3.0, 0.98), strict=True):
        drafted, decoded = copying[f"decode_{together}"], plain[f"decode_{together}"]
        figure(f"gpu_copying_{together}", drafted, decoded, bar, ok=drafted >= bar * decoded)
    for length in LENGTHS[1:]:
        ahead, first = plain[f"ahead_{length}"], plain[f"first_{length}"]
        ok = length < LENGTHS[-1] or 5 * ahead <= first
        figure(f"gpu_ahead_{length}_ms", ahead, first, 0.2, ok=ok)


def figure(name: str, ours: float, theirs: float, bar: float, *, ok: bool) -> None:
    """One line of the bench."""
    verdict = "ok" if ok else "short"
    print(f"BENCH {name} {ours:.4g} {theirs:.4g} {ours / theirs:.2f} {bar:g} {verdict}", flush=True)


def main() -> None:
    """Parse the command line and measure; each engine in a child, for it leaves much behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--cpu", action="store_true", help="try the script without a GPU")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not given.cpu:
        print("no GPU here: nothing is measured")
        return
    chain = Chain.of(LENGTHS[-1], changed=LENGTHS[-1] // 10)
    if given.child:
        folder, way = Path(given.child[0]), given.child[1] == "copying"
        bench = Bench(folder, copying=way, gpu=gpu)
        print(f"figures: {json.dumps(measured(bench, chain, copying=way, turns=given.turns))}")
        return
    print(torch.cuda.get_device_name() if gpu else "no GPU: a trial of the script, no figures")
    layers, width = (36, 2048) if gpu else (2, 256)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-serving-") as name:
        parameters = write_models(
            Path(name),
            chain,
            layers=given.layers or layers,
            width=given.width or width,
            context_tokens=CONTEXT_TOKENS,
        )
        print(f"{parameters:,} parameters")
        tell(*(_child(name, way, given) for way in ("plain", "copying")))


def _child(folder: str, way: str, given: argparse.Namespace) -> dict[str, float]:
    options = [f"--turns={given.turns}", *(["--cpu"] if given.cpu else [])]
    told = subprocess.run(
        [sys.executable, __file__, *options, "--child", folder, way],
        env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **os.environ},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = next(one for one in told.stdout.splitlines() if one.startswith("figures: "))
    found: dict[str, float] = json.loads(line.removeprefix("figures: "))
    return found


if __name__ == "__main__":
    main()
