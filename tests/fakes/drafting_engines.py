"""One engine without drafts and one with, over the same export; run as a program of its own.

    python drafting_engines.py EXPORT ASKED.json

ASKED holds ``prompts`` (ids, and how many tokens to write), which are gone on with greedily, and
``drawn`` (one prompt's ids), which is sampled ``samples`` times. Prints what came as JSON.
"""

import json
import os
import sys
from typing import Any

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
)

DEPTH = 8


def main(export: str, asked_file: str) -> None:
    """Write with both."""
    from vllm import LLM

    from aligner.adapters import vllm_copying
    from aligner.adapters.hf_tokenizer import HfTokenizer
    from aligner.answer_marks import marks_of_all
    from aligner.prompt import PLAIN

    with open(asked_file) as file:
        asked = json.load(file)
    tokenizer = HfTokenizer.load(export)
    marks = marks_of_all([(PLAIN, tokenizer)])
    sides: dict[str, dict[str, Any]] = {
        "plain": {},
        "drafts": vllm_copying.engine_arguments(marks, depth=DEPTH),
    }
    told = {}
    for side, arguments in sides.items():
        engine = LLM(
            export,
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=512,
            max_num_seqs=16,
            # Some prompts are read in several steps, while others are written.
            max_num_batched_tokens=256,
            enforce_eager=True,
            disable_log_stats=False,
            generation_config="vllm",
            **arguments,
        )
        told[side] = written(engine, asked, end_id=tokenizer.eos_token_id)
        del engine
    print(json.dumps(told))


def written(engine: Any, asked: dict[str, Any], *, end_id: int) -> dict[str, Any]:
    """What one engine makes of it."""
    from vllm import SamplingParams

    def sampling(**settings: Any) -> SamplingParams:
        return SamplingParams(stop_token_ids=[end_id], detokenize=False, **settings)

    greedy = engine.generate(
        [{"prompt_token_ids": ids} for ids, _ in asked["prompts"]],
        [sampling(temperature=0.0, max_tokens=most) for _, most in asked["prompts"]],
        use_tqdm=False,
    )
    drawn = engine.generate(
        [{"prompt_token_ids": asked["drawn"]}],
        sampling(n=asked["samples"], max_tokens=4, **asked["sampling"]),
        use_tqdm=False,
    )
    counts = {one.name: getattr(one, "value", None) for one in engine.get_metrics()}
    return {
        "greedy": [list(one.outputs[0].token_ids) for one in greedy],
        "drawn": [list(one.token_ids) for one in drawn[0].outputs],
        "drafted": counts.get("vllm:spec_decode_num_draft_tokens", 0),
        "accepted": counts.get("vllm:spec_decode_num_accepted_tokens", 0),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
