"""What an engine is started with: vLLM's arguments, and what Ray reserves for it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aligner.adapters import vllm_copying
from aligner.answer_marks import Marks
from aligner_serve.config.aligner import EngineConfig

_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of adapters."""


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
    if engine.num_gpus > 1:
        arguments["tensor_parallel_size"] = engine.num_gpus
    return arguments | vllm_copying.engine_arguments(
        marks, depth=engine.copy_speculation_tokens, gpus=engine.num_gpus
    )


def adapter_arguments(ranks: list[int]) -> dict[str, Any]:
    """The further ones of an engine with adapters of these ranks, all of them at once in memory."""
    return {
        "enable_lora": True,
        "max_loras": len(ranks),
        "max_lora_rank": min(rank for rank in _RANKS if rank >= max(ranks)),
    }


def rank_of(adapter: Path) -> int:
    """The rank of an adapter in PEFT's layout."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    return int(config["r"])


def bundles(engine: EngineConfig, *, num_cpus: float) -> list[dict[str, float]]:
    """What Ray reserves for one replica: its own CPUs, and a GPU per worker of its engine."""
    cpus: dict[str, float] = {"CPU": num_cpus}
    gpus = engine.num_gpus
    return [{**cpus, "GPU": 1}, *[{"GPU": 1.0}] * (gpus - 1)] if gpus else [cpus]
