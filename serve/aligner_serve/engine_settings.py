"""What an engine is started with: vLLM's arguments, and what Ray reserves for it."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from aligner.adapters import vllm_copying
from aligner.answer_marks import Marks
from aligner_serve.config.aligner import EngineConfig

_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of adapters."""


_CPU_BLOCK_TOKENS: Final = 32
"""What does not fill a block of the cache is read again by the next request: on a CPU that is dear,
and vLLM's own blocks hold 128 tokens there."""


def engine_arguments(
    engine: EngineConfig, *, context_tokens: int, marks: Sequence[Marks] = ()
) -> dict[str, Any]:
    """vLLM's own engine arguments; ``marks`` are those of the aligners that it decodes for."""
    arguments: dict[str, Any] = {
        "dtype": engine.dtype,
        "max_model_len": context_tokens,
        "max_num_seqs": engine.max_num_seqs,
        "enforce_eager": engine.enforce_eager,
        # Sampling comes from our config; a file beside the weights must not add to it.
        "generation_config": "vllm",
        "disable_log_stats": True,
    }
    if not engine.num_gpus:
        arguments["block_size"] = _CPU_BLOCK_TOKENS
    if engine.num_gpus > 1:
        arguments["tensor_parallel_size"] = engine.num_gpus
    return arguments | vllm_copying.engine_arguments(
        marks, depth=engine.copy_speculation_tokens, gpus=engine.num_gpus
    )


def adapter_arguments(adapters: Collection[Path]) -> dict[str, Any]:
    """The further ones of an engine with these adapters (PEFT folders), all at once in memory."""
    told = [json.loads((one / "adapter_config.json").read_text()) for one in adapters]
    largest = max(int(one["r"]) for one in told)
    return {
        "enable_lora": True,
        "max_loras": len(told),
        "max_lora_rank": min(rank for rank in _RANKS if rank >= largest),
        # vLLM would else wrap the output layer as well, which then can write tokens but not score
        # those of a prompt.
        "lora_target_modules": sorted({name for one in told for name in one["target_modules"]}),
    }


def bundles(engine: EngineConfig, *, num_cpus: float) -> list[dict[str, float]]:
    """What Ray reserves for one replica: its own CPUs, and a GPU per worker of its engine."""
    cpus: dict[str, float] = {"CPU": num_cpus}
    gpus = engine.num_gpus
    return [{**cpus, "GPU": 1}, *[{"GPU": 1.0}] * (gpus - 1)] if gpus else [cpus]
