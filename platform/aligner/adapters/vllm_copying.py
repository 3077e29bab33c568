"""The class that vLLM loads to have tokens drafted by copying (``method: custom_class``).

vLLM checks each draft and keeps what the model would have written anyway: with greedy decoding the
tokens are the same, when sampling their distribution is. Written against vLLM 0.29: it calls
``propose`` after each step with the tokens that came, and schedules what is returned.
"""

import copy
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aligner.answer_marks import Marks
from aligner.drafts import Drafter

SETTINGS: Final = "copying"
"""Under this name the marks stand in vLLM's ``additional_config``."""

_DEPTH: Final = 16
"""Tokens of one request drafted at once, where nobody says."""


def engine_arguments(
    marks: Sequence[Marks], *, depth: int | None = None, gpus: int = 0
) -> dict[str, Any]:
    """vLLM's engine arguments for drafts of at most ``depth`` tokens a request and step.

    Unless ``depth`` is given, there are drafts for prompts with answers on a CPU alone: on a GPU
    vLLM gives up asynchronous scheduling for them.
    """
    if depth is None:
        depth = _DEPTH if marks and not gpus else 0
    if not depth:
        return {}
    return {
        "speculative_config": {
            "method": "custom_class",
            "model": f"{CopyProposer.__module__}.{CopyProposer.__qualname__}",
            "num_speculative_tokens": depth,
        },
        "additional_config": {SETTINGS: [one.model_dump(mode="json") for one in marks]},
    }


class CopyProposer:
    """Drafts for one engine, in the process that runs the model."""

    def __init__(self, vllm_config: Any) -> None:
        """vLLM gives its whole config and nothing else."""
        speculative, scheduler = vllm_config.speculative_config, vllm_config.scheduler_config
        depth = speculative.num_speculative_tokens
        context_tokens = vllm_config.model_config.max_model_len
        self._drafter = Drafter(
            [Marks.model_validate(one) for one in vllm_config.additional_config[SETTINGS]],
            depth=depth,
            # Drafts are scheduled before new prompts; these must not wait for room.
            budget=scheduler.max_num_batched_tokens // 2 - scheduler.max_num_seqs,
            context_tokens=context_tokens,
        )
        # On a CPU only the proportions count, and this clock stands still while others compute.
        on_cpu = vllm_config.device_config.device_type == "cpu"
        self._clock = time.process_time if on_cpu else time.perf_counter
        self._ended_s = self._clock()
        # When one request comes within ``depth`` of the context's end, vLLM drafts zeros for all
        # of them, because a draft model could not go on. Drafts here end there by themselves.
        roomy = copy.copy(speculative.draft_model_config)
        roomy.max_model_len = context_tokens + depth + 1
        speculative.draft_model_config = roomy

    def load_model(self, *_: Any, **__: Any) -> None:
        """Called when the model is loaded; drafts need none."""
        _mend_sampling()

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """The next drafts by row, as vLLM calls for them."""
        took_ms = (self._clock() - self._ended_s) * 1e3
        drafts = self._drafter.draft(
            sampled_token_ids, num_tokens_no_spec, token_ids_cpu, took_ms=took_ms
        )
        self._ended_s = self._clock()
        return drafts


def _mend_sampling() -> None:
    """Without Triton, vLLM 0.29 samples drafted tokens by settings that it never wrote down.

    Its CPU kernel fills a copy of the tensor that it was given; temperature, top-k and top-p of
    each drafted token are then whatever stood in memory, and the engine dies of some.
    """
    from vllm.triton_utils import HAS_TRITON
    from vllm.v1.sample import rejection_sampler

    if not HAS_TRITON:
        rejection_sampler.expand_batch_to_tokens = expanded


def expanded(
    of_row_B: Any, ends_B: Any, tokens: int, replace_from: float = 0, replace_to: float = 0
) -> Any:
    """What holds for a row, for each of its tokens: in the place of ``expand_batch_to_tokens``."""
    counts_B = ends_B.diff(prepend=ends_B.new_zeros(1))
    of_token_T = of_row_B.repeat_interleave(counts_B, output_size=tokens)
    return of_token_T.masked_fill(of_token_T == replace_from, replace_to)
