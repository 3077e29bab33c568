"""What vLLM is told and given; ``tests/serve/test_copy_speculation.py`` has real engines."""

from types import SimpleNamespace

import numpy as np
import torch

from aligner.adapters import vllm_copying
from aligner.answer_marks import Marks

MARKS = Marks(before=(3, 4), after=(5, 6), end_id=2)
ANSWER = list(range(10, 40))


def proposer(*, depth: int = 8, context_tokens: int = 256) -> vllm_copying.CopyProposer:
    told = vllm_copying.engine_arguments([MARKS], depth=depth)
    model = SimpleNamespace(max_model_len=context_tokens)
    config = SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=depth, draft_model_config=model),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=512, max_num_seqs=4),
        model_config=model,
        device_config=SimpleNamespace(device_type="cpu"),
        additional_config=told["additional_config"],
    )
    one = vllm_copying.CopyProposer(config)
    # vLLM compares with this one whether a draft model has room, and the model keeps its own.
    assert config.speculative_config.draft_model_config.max_model_len > context_tokens
    assert config.model_config.max_model_len == context_tokens
    return one


def test_the_answer_is_proposed_row_by_row() -> None:
    prompt = [1, 3, 4, *ANSWER, 5, 6]
    ids = np.zeros((4, 256), dtype=np.int32)
    ids[1, : len(prompt) + 1] = [*prompt, ANSWER[0]]
    lengths = np.array([9, len(prompt) + 1, 0, 0], dtype=np.int32)
    # The first row's prompt is still being read.
    assert proposer().propose([[], [ANSWER[0]]], lengths, ids) == [[], ANSWER[1:9]]


def test_unless_told_so_only_aligners_on_a_cpu_draft() -> None:
    assert vllm_copying.engine_arguments([MARKS], gpus=1) == {}
    assert vllm_copying.engine_arguments([]) == {}
    assert vllm_copying.engine_arguments([MARKS], depth=0) == {}
    arguments = vllm_copying.engine_arguments([MARKS])
    assert arguments["speculative_config"]["num_speculative_tokens"] == 16
    assert "speculative_config" in vllm_copying.engine_arguments([], depth=4, gpus=2)


def test_what_holds_for_a_row_holds_for_each_of_its_tokens() -> None:
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    warmth = vllm_copying.expanded(torch.tensor([0.0, 0.5, 0.7]), ends, 5, 0, 1)
    assert torch.equal(warmth, torch.tensor([1.0, 1.0, 0.7, 0.7, 0.7]))
    top_k = vllm_copying.expanded(torch.tensor([6, 7, 0], dtype=torch.int32), ends, 5)
    assert torch.equal(top_k, torch.tensor([6, 6, 0, 0, 0], dtype=torch.int32))
