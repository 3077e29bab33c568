"""Reading an answer's copy before anything is written: one engine, two requests for a row.

The first reads prompt and copy and gives each token of the copy a log-probability and a rank. An
answer without doubt is kept; of any other, what greedy decoding would have copied is given to the
second request, which writes the rest.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aligner.keeping import CopyScores

Generate = Callable[[dict[str, Any]], Awaitable[tuple[Any, dict[str, Any], float]]]
"""A request of ``ray.data.llm``: from a row to the engine's request, its output, and seconds."""

_READ: Final = {
    "temperature": 0.0,
    # vLLM writes one at least.
    "max_tokens": 1,
    "prompt_logprobs": 0,
    "detokenize": False,
}
"""Sampling parameters of the first request."""


async def copy_first(
    generate: Generate, row: Mapping[str, Any]
) -> tuple[Any, dict[str, Any], float]:
    """What ``generate`` would give for ``row``, whose decoding is greedy, with less decoding.

    Columns in: tokenized_prompt, sampling_params, copy_ids (EOS included; empty: nothing to read),
    keep_from (the lowest score that is kept).
    Output: as of one request, and kept, trusted_tokens (given, not decoded), and of each token of
    the copy copy_logprobs and copy_ranks.
    """
    # Ray Data gives arrays, whose numbers the engine's own process would not understand.
    prompt, copy = ([int(one) for one in row[name]] for name in ("tokenized_prompt", "copy_ids"))
    sampling = dict(row["sampling_params"])
    if not copy:
        request, output, seconds = await generate(dict(row))
        return request, {**output, **_told(None)}, seconds
    request, read, reading_s = await generate(_asking(row, prompt + copy, _READ))
    scores = scores_of(read["prompt_logprobs"], copy)
    told = _told(scores, kept=scores.score >= row["keep_from"])
    if told["kept"] or scores.trusted == len(copy):
        told["trusted_tokens"] = len(copy)
        return (
            request,
            {**read, **told, "prompt_logprobs": None, "generated_tokens": copy},
            reading_s,
        )
    trusted = copy[: scores.trusted]
    sampling["max_tokens"] -= len(trusted)
    request, output, writing_s = await generate(_asking(row, prompt + trusted, sampling))
    written = [*trusted, *output["generated_tokens"]]
    return request, {**output, **told, "generated_tokens": written}, reading_s + writing_s


def scores_of(prompt_logprobs: Sequence[Any], copy: Sequence[int]) -> CopyScores:
    """The scores of ``copy``, with which the prompt ends, from what vLLM tells of each token."""
    told = [one[token] for one, token in zip(prompt_logprobs[-len(copy) :], copy, strict=True)]
    return CopyScores(
        logprobs=tuple(float(one["logprob"]) for one in told),
        ranks=tuple(int(one["rank"]) for one in told),
    )


def _asking(row: Mapping[str, Any], ids: list[int], sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "tokenized_prompt": ids, "sampling_params": dict(sampling)}


def _told(scores: CopyScores | None, *, kept: bool = False) -> dict[str, Any]:
    """The columns that tell how it went."""
    return {
        "kept": kept,
        "trusted_tokens": scores.trusted if scores else 0,
        "copy_logprobs": list(scores.logprobs) if scores else [],
        "copy_ranks": list(scores.ranks) if scores else [],
    }
