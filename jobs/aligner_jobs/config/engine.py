"""Local models: how vLLM runs them inside Ray Data."""

from typing import Literal

from pydantic import Field

from aligner.config import StrictModel


class EngineConfig(StrictModel):
    """How vLLM runs a model in batch."""

    gpus: int = Field(default=0, ge=0)
    """GPUs of one engine (tensor parallel); 0 runs on the CPU."""

    replicas: int = Field(default=1, ge=1)
    """Engines side by side."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations; ``auto`` is what the model was saved in, except that float32
    becomes bfloat16."""

    enforce_eager: bool = True
    """Start at once, without compiling the model; false pays off for large runs on a GPU."""

    max_model_len_tokens: int | None = Field(default=None, ge=16)
    """Prompt and reply together; unset: what the model was made for."""

    max_num_seqs: int = Field(default=256, ge=1)
    """Replies that one engine writes at the same time."""

    batch_size: int = Field(default=64, ge=1)
    """Rows that Ray Data hands to an engine at once; several batches are under way."""

    copy_speculation_tokens: int | None = Field(default=None, ge=0)
    """Tokens of one correction drafted at once, at most, by copying from where it stands in its
    answer; what comes out is the same. 0 is off; unset: 16 for an aligner on the CPU, else off."""

    gpu_memory_utilization: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of a GPU's memory for weights and cache; no meaning on the CPU."""
