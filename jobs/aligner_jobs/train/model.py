"""The model that is trained: a new one of Llama's shape, or a checkpoint's."""

import json
from pathlib import Path
from typing import Any, assert_never, cast

import torch
from torch import nn

from aligner.errors import DataError
from aligner_jobs import hub
from aligner_jobs.config.model import PretrainedModel, ScratchModel
from aligner_jobs.config.train import TrainConfig

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_model(
    config: TrainConfig, *, vocab_size: int, bos_token_id: int | None, eos_token_id: int
) -> nn.Module:
    """The causal model with its initial weights, on the CPU; equal seeds give equal weights.

    It is built whole before DeepSpeed partitions it: under ``zero.Init`` a new model of
    Transformers' would silently miss its initialiser.
    """
    torch.manual_seed(config.seed)
    spec = config.model
    # Transformers ships no types that would tell a parameter from a method.
    model: Any
    match spec:
        case ScratchModel():
            model = _new_llama(
                spec,
                vocab_size=vocab_size,
                max_length_tokens=config.max_length_tokens,
                bos_token_id=bos_token_id,
                eos_token_id=eos_token_id,
            )
        case PretrainedModel():
            model = _load(local_folder(spec), dtype=_DTYPES[config.precision])
        case _:
            assert_never(spec)
    model.config.use_cache = False
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return cast(nn.Module, model)


def local_folder(spec: PretrainedModel) -> Path:
    """Where the checkpoint lies on this machine; a hub id's files are fetched if need be.

    Raises:
        DataError: There is no such folder and no such model to be had.
    """
    patterns = ("*.json", "*.safetensors", "*.model")
    return hub.local_folder(spec.path, key="model.path", patterns=patterns, revision=spec.revision)


def require_safetensors(folder: Path) -> None:
    """Raise :class:`DataError` where ``folder`` holds no weights that load without running code."""
    if not any(folder.glob("*.safetensors")):
        raise DataError(
            f"{folder}: holds no *.safetensors; pickled weights are not loaded, convert them."
        )
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: holds no config.json; fetch the checkpoint again.")


def max_positions(folder: Path) -> int | None:
    """Longest sequence that the checkpoint's config names, ``None`` where it names none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{folder}/config.json: is broken JSON; fetch it again.") from None
    found = config.get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _new_llama(
    spec: ScratchModel,
    *,
    vocab_size: int,
    max_length_tokens: int,
    bos_token_id: int | None,
    eos_token_id: int,
) -> Any:
    # Imported here: the Auto classes would take twice as long to load as this one model.
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=spec.hidden_size,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.heads,
            intermediate_size=spec.intermediate_size,
            max_position_embeddings=max_length_tokens,
            tie_word_embeddings=spec.tied_embeddings,
            initializer_range=spec.initializer_range,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=0,
            attn_implementation="sdpa",
        )
    )


def _load(folder: Path, *, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    require_safetensors(folder)
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as exc:
        raise DataError(f"{folder}: cannot be loaded ({exc}); check the checkpoint.") from None
