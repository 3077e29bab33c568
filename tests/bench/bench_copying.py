"""What drafting by copying saves: real vLLM on a CPU writes real corrections, with and without.

A Llama of 27 million random parameters is made to write the corrections of the real triples (see
``forced_decoding.py``): the engine does all of its work, and the texts are those of real Aligners.
Three engines take turns: plain, with drafts by copying, and with vLLM's own n-gram drafts (the
peer). Prompts are read before the clock starts, so that decoding alone is measured.

- ``copying_90_alone``: tokens/s with and without, one request in flight, corrections of which 85 to
  97 % of the tokens are copied. The bar is 3 times.
- ``copying_KIND_alone``: the same by kind of edit; the bar is 1.
- ``copying_KIND_tokens_a_step``: beside the simulated bound of the same rows, drafts of 16 tokens
  that cost nothing, by prompt lookup. An engine alone drafts less than 16 where that is faster.
- ``copying_KIND_at_32``: 32 in flight, with and without; the bar is 0.98.
- ``copying_KIND_at_32_beside_ngram``: 32 in flight, ours and vLLM's n-gram drafts of 8 tokens.

    python tests/bench/bench_copying.py [--turns 3] [--data ../shared/data]
"""

import argparse
import gzip
import json
import multiprocessing as mp
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).parents[2]
FAKES = str(ROOT / "tests/fakes")
DEPTH = 16
VOCABULARY = 32_000
END, BEFORE, AFTER, FIRST = 2, (3, 4), (5, 6), 10
SHORTEST, LONGEST = 40, 160
"""Tokens of a correction."""
ALONE, TOGETHER, IN_FLIGHT = 6, 64, 32
SIDES: Final = ("plain", "ours", "ngram")
SOURCES: Final = {"cai": "cai_revisions", "selfee": "selfee_revisions"}
KINDS: Final = ("90", "identical", "edit", "selfee", "cai", "rewrite", "foreign")


@dataclass(frozen=True)
class Row:
    """Token ids of one triple, split as the data sets' README splits them."""

    question: list[int]
    answer: list[int]
    correction: list[int]

    @property
    def prompt(self) -> list[int]:
        """As a frame would stand around it."""
        return [1, *self.question, *BEFORE, *self.answer, *AFTER]

    @property
    def written(self) -> list[int]:
        """What the engine is to write."""
        return [*self.correction, END]

    @property
    def copied(self) -> float:
        """Share of the correction's tokens that are the answer's, in order."""
        blocks = SequenceMatcher(None, self.answer, self.correction, autojunk=False)
        return sum(one.size for one in blocks.get_matching_blocks()) / len(self.correction)


def rows_by_kind(folder: Path) -> dict[str, list[Row]]:
    """Rows of each kind in an order drawn once, of a length that a turn has time for."""
    known: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        words = re.findall(r"\s*(?:\w+|[^\w\s])", text)
        ids = (known.setdefault(word, len(known)) for word in words)
        return [FIRST + one % (VOCABULARY - FIRST) for one in ids]

    found = defaultdict[str, list[Row]](list)
    for name in ("aligner2b_corrections", *SOURCES.values()):
        kind = next((kind for kind, source in SOURCES.items() if source == name), None)
        with gzip.open(folder / f"{name}.jsonl.gz", "rt") as lines:
            for raw in map(json.loads, lines):
                texts = (encode(raw[part]) for part in ("question", "answer", "correction"))
                row = Row(*texts)
                if SHORTEST <= len(row.correction) <= LONGEST and len(row.prompt) <= 600:
                    found[kind or raw["kind"]].append(row)
    # Of one pair there are several corrections: an engine is made to write one.
    found |= {
        kind: [*{tuple(row.prompt): row for row in rows}.values()] for kind, rows in found.items()
    }
    near = [row for kind in ("edit", "selfee") for row in found[kind] if 0.85 <= row.copied <= 0.97]
    found["90"] = near
    for rows in found.values():
        random.Random(0).shuffle(rows)
    return {kind: found[kind][:TOGETHER] for kind in KINDS}


def bound(rows: list[Row]) -> float:
    """Tokens a step of prompt lookup: the first place of the longest of 3, 2 and 1 last tokens."""
    written = steps = 0
    for row in rows:
        ids, wanted = list(row.prompt), row.written
        written += len(wanted)
        while wanted:
            came, draft = 0, _looked_up(ids)
            while came < min(len(draft), len(wanted) - 1) and draft[came] == wanted[came]:
                came += 1
            ids += wanted[: came + 1]
            wanted = wanted[came + 1 :]
            steps += 1
    return written / steps


def _looked_up(ids: list[int]) -> list[int]:
    for length in (3, 2, 1):
        last = ids[-length:]
        for place in range(len(ids) - length):
            if ids[place : place + length] == last:
                return ids[place + length : place + length + DEPTH]
    return []


def serve(side: str, model: str, ends: Connection) -> None:
    """One engine in a process of its own, which writes what it is sent."""
    sys.path.insert(0, FAKES)
    os.environ["PYTHONPATH"] = os.pathsep.join([FAKES, os.environ.get("PYTHONPATH", "")])
    from vllm import LLM, SamplingParams

    from aligner.adapters import vllm_copying
    from aligner.answer_marks import Marks

    marks = Marks(before=BEFORE, after=AFTER, end_id=END)
    arguments: dict[str, dict[str, Any]] = {
        "plain": {},
        "ours": vllm_copying.engine_arguments([marks], depth=DEPTH),
        "ngram": {
            "speculative_config": {
                "method": "ngram",
                "num_speculative_tokens": 8,
                "prompt_lookup_max": 4,
                "prompt_lookup_min": 2,
            }
        },
    }
    engine: Any = LLM(
        model,
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=IN_FLIGHT,
        enforce_eager=True,
        worker_extension_cls="forced_decoding.ForcedDecoding",
        **arguments[side],
    )
    ends.send("ready")
    rows: list[Row]
    while (rows := ends.recv()) is not None:
        engine.collective_rpc("force", args=([(row.prompt, row.written) for row in rows],))
        groups = [rows] if len(rows) > ALONE else [[row] for row in rows]
        prompts = [[{"prompt_token_ids": row.prompt} for row in group] for group in groups]
        for asked in prompts:
            engine.generate(asked, SamplingParams(max_tokens=1, detokenize=False), use_tqdm=False)
        engine.collective_rpc("steps")
        wrong, begin, cpu_begin = 0, time.perf_counter(), time.process_time()
        for group, asked in zip(groups, prompts, strict=True):
            sampling = [
                SamplingParams(
                    temperature=0.0,
                    max_tokens=len(row.written),
                    stop_token_ids=[END],
                    detokenize=False,
                )
                for row in group
            ]
            outputs = engine.generate(asked, sampling, use_tqdm=False)
            wrong += sum(
                list(one.outputs[0].token_ids) != row.written
                for one, row in zip(outputs, group, strict=True)
            )
        took = time.perf_counter() - begin, time.process_time() - cpu_begin
        steps = engine.collective_rpc("steps")[0]
        ends.send((*took, sum(rows for rows, _ in steps), sum(n for _, n in steps), wrong))


@contextmanager
def engines(model: str) -> Iterator[dict[str, Connection]]:
    """One of each side, started one after the other."""
    spawned, ends = [], dict[str, Connection]()
    context = mp.get_context("spawn")
    for side in SIDES:
        ends[side], other = context.Pipe()
        spawned.append(context.Process(target=serve, args=(side, model, other), daemon=True))
        spawned[-1].start()
        assert ends[side].recv() == "ready"
    try:
        yield ends
    finally:
        for end in ends.values():
            end.send(None)
        for process in spawned:
            process.join(30)


def write_model(folder: str) -> None:
    """27 million parameters, as they come."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=END,
    )
    model = LlamaForCausalLM(shape)
    print(f"{sum(one.numel() for one in model.parameters()) / 1e6:.1f} million parameters")
    model.bfloat16().save_pretrained(folder)


def figure(name: str, ours: float, theirs: float, bar: float) -> None:
    """One line of the bench."""
    ratio = ours / theirs
    verdict = "ok" if ratio >= bar else "short"
    print(f"BENCH {name} {ours:.4g} {theirs:.4g} {ratio:.2f} {bar:g} {verdict}", flush=True)


@dataclass(frozen=True)
class Speed:
    """Of one side over some rows."""

    per_s: float
    per_cpu_s: float
    a_step: float
    """Tokens written by a request in a step."""
    drafted: float
    """Tokens drafted for a request in a step."""

    @property
    def told(self) -> str:
        """For who watches; of a busy machine the CPU's seconds say more."""
        speed = f"{self.per_s:.0f} tokens/s, {self.per_cpu_s:.0f} a second of CPU"
        return f"{speed}; {self.a_step:.2f} a step, {self.drafted:.2f} drafted"


Taken = dict[tuple[str, str, str], list[Speed]]
"""By kind, load and side, turn by turn."""


def turn(ends: dict[str, Connection], rows: dict[str, list[Row]], taken: Taken) -> None:
    """Each side once over each kind, alone and together."""
    for kind, all_rows in rows.items():
        for load, some in (("alone", all_rows[:ALONE]), ("together", all_rows)):
            tokens = sum(len(row.written) for row in some)
            for side in SIDES:
                ends[side].send(some)
                took_s, cpu_s, steps, checked, wrong = ends[side].recv()
                assert not wrong, f"{side} wrote {wrong} other texts than it was made to"
                one = Speed(tokens / took_s, tokens / cpu_s, tokens / steps, checked / steps - 1)
                taken[kind, load, side].append(one)
            told = {side: taken[kind, load, side][-1] for side in SIDES}
            for side, one in told.items():
                print(kind, load, side, one.told, flush=True)


def tell(rows: dict[str, list[Row]], taken: Taken) -> None:
    """The figures."""

    def per_s(kind: str, load: str, side: str) -> float:
        return statistics.median(one.per_s for one in taken[kind, load, side])

    for kind, some in rows.items():
        alone, plain = per_s(kind, "alone", "ours"), per_s(kind, "alone", "plain")
        figure(f"copying_{kind}_alone", alone, plain, 3 if kind == "90" else 1)
        a_step = statistics.median(one.a_step for one in taken[kind, "alone", "ours"])
        figure(f"copying_{kind}_tokens_a_step", a_step, bound(some[:ALONE]), 0.8)
        together = per_s(kind, "together", "ours")
        figure(f"copying_{kind}_at_32", together, per_s(kind, "together", "plain"), 0.98)
        ngram = per_s(kind, "together", "ngram")
        figure(f"copying_{kind}_at_32_beside_ngram", together, ngram, 1)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"{options.data}: no data sets here; nothing is measured.")
        return
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    here = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    # As a replica with one CPU has it; threads of several engines would wait for one another.
    os.environ.update({**quiet, **here, "OMP_NUM_THREADS": "1"})
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    rows = {
        kind: some for kind, some in rows_by_kind(options.data).items() if kind in options.kinds
    }
    taken: Taken = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder)
        with engines(folder) as ends:
            # Costs and chances are learnt while it serves; the first turn is not counted.
            turn(ends, {kind: some[:8] for kind, some in rows.items()}, defaultdict(list))
            for _ in range(options.turns):
                turn(ends, rows, taken)
    tell(rows, taken)


if __name__ == "__main__":
    main()
