"""Real engines with and without drafts: what comes out is the same."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.prompt import PLAIN
from aligner.tokens import encode_prompt

pytestmark = pytest.mark.e2e

CONTEXT = 512
SAMPLES = 4000

PROGRAM = """
import sys

import drafting_engines
from aligner.draft_depth import StepCost

# What steps take says how many drafts pay: on a busy machine that may be none.
StepCost.learn = lambda *_, **__: None
drafting_engines.main(*sys.argv[1:])
"""


def prompts(known_export: Any, tokenizer: HfTokenizer) -> list[tuple[list[int], int]]:
    """Known rows, answers that nobody has learnt, begun corrections, and some up to the end."""
    draw = random.Random(3)
    found = []
    for row in (known_export.corrected, known_export.unchanged, known_export.multi_turn):
        ids = encode_prompt(
            row.question, row.answer, row.history, template=PLAIN, tokenizer=tokenizer
        )
        copy = tokenizer.encode(PLAIN.frame.escape(row.answer))
        found += [(ids, 120), ([*ids, *copy[: len(copy) // 2]], 120), ([*ids, *copy], 60)]
    words = known_export.corrected.answer.split()
    for length in (1, 5, 20, 60, 90, 110):
        answer = " ".join(draw.choice(words) for _ in range(length)) + " 真的 🙂\n"
        ids = encode_prompt("Why?", answer, template=PLAIN, tokenizer=tokenizer)[: CONTEXT - 40]
        found.append((ids, CONTEXT - len(ids)))
    return found


@pytest.fixture(scope="module")
def written(
    known_export: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What both engines wrote; they share a process of their own."""
    tokenizer = HfTokenizer.load(known_export.uri)
    row = known_export.unchanged
    asked = {
        "prompts": prompts(known_export, tokenizer),
        "drawn": encode_prompt(row.question, row.answer, template=PLAIN, tokenizer=tokenizer),
        "samples": SAMPLES,
        # So warm that the answer's next token is one of several.
        "sampling": {"temperature": 2.0, "top_k": 6, "seed": None},
    }
    folder = tmp_path_factory.mktemp("asked")
    (folder / "asked.json").write_text(json.dumps(asked))
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, known_export.uri, folder / "asked.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def test_greedy_decoding_writes_the_same_tokens_with_drafts(
    written: dict[str, dict[str, Any]],
) -> None:
    assert written["drafts"]["greedy"] == written["plain"]["greedy"]


def test_the_drafts_of_these_were_taken(written: dict[str, dict[str, Any]]) -> None:
    assert written["plain"]["drafted"] == 0
    assert written["drafts"]["accepted"] > 300


def test_sampled_tokens_are_distributed_as_without_drafts(
    written: dict[str, dict[str, Any]],
) -> None:
    """Two samples of one distribution: chi-square over the first four tokens, one by one.

    With so many samples a sampler that keeps four drafts in ten without a draw is found each time.
    """
    for place in range(4):
        seen = [
            Counter(ids[place] for ids in written[side]["drawn"] if len(ids) > place)
            for side in ("plain", "drafts")
        ]
        statistic, freedom = chi_square(*seen)
        assert statistic < limit(freedom)
    pairs = [Counter((*ids[:3],) for ids in written[side]["drawn"]) for side in ("plain", "drafts")]
    statistic, freedom = chi_square(*pairs)
    assert freedom > 8 and statistic < limit(freedom)


def limit(freedom: int) -> float:
    """What chi-square exceeds once in 10**9 times, by the formula of Wilson and Hilferty."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + 6 * part**0.5) ** 3)


def chi_square(one: Counter[Any], two: Counter[Any]) -> tuple[float, int]:
    """Of two samples, and its degrees of freedom; what is rare counts as one thing."""
    often = [key for key in one | two if one[key] + two[key] >= 20]
    rare = [sum(count.values()) - sum(count[key] for key in often) for count in (one, two)]
    cells = [(one[key], two[key]) for key in often] + ([(rare[0], rare[1])] if sum(rare) else [])
    share = one.total() / (one.total() + two.total())
    statistic = sum(
        (a - (a + b) * share) ** 2 / ((a + b) * share)
        + (b - (a + b) * (1 - share)) ** 2 / ((a + b) * (1 - share))
        for a, b in cells
    )
    return statistic, len(cells) - 1
