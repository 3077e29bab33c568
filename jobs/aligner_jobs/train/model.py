"""The model that is trained: a new one of Llama's or Gemma's shape, or a checkpoint's."""

import importlib.util
import json
from pathlib import Path
from typing import Any, assert_never, cast

import torch
from torch import nn

from aligner.errors import ConfigError, DataError
from aligner_jobs import hub
from aligner_jobs.config.model import PretrainedModel, ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.attention import use_packed_attention
from aligner_jobs.train.lora import add_lora

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_model(
    config: TrainConfig, *, vocab_size: int, bos_token_id: int | None, eos_token_id: int
) -> nn.Module:
    """The causal model with its initial weights, on the CPU; equal seeds give equal weights.

    It is built whole before DeepSpeed partitions it: under ``zero.Init`` a new model of
    Transformers' would silently miss its initialiser.

    Raises:
        ConfigError: A library that the config asks for is not installed.
        DataError: The checkpoint cannot be used.
    """
    require_attention(config, installed=_installed("flash_attn"))
    torch.manual_seed(config.seed)
    spec = config.model
    # Transformers ships no types that would tell a parameter from a method.
    model: Any
    match spec:
        case ScratchModel():
            model = _new(
                spec,
                attention=config.attention,
                vocab_size=vocab_size,
                max_length_tokens=config.max_length_tokens,
                bos_token_id=bos_token_id,
                eos_token_id=eos_token_id,
            )
        case PretrainedModel():
            model = _load(
                local_folder(spec), dtype=_DTYPES[config.precision], attention=config.attention
            )
            require_embedding(spec, model.config.vocab_size, tokens=vocab_size)
        case _:
            assert_never(spec)
    model.config.use_cache = False
    if config.attention != "flash_attention_2":
        use_packed_attention(model)
    if uses_liger(config, installed=_installed("liger_kernel")):
        _use_liger(model)
    if config.adapter is not None:
        add_lora(model, config.adapter)
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


def require_attention(config: TrainConfig, *, installed: bool) -> None:
    """Raise :class:`ConfigError` where FlashAttention 2 is asked for and cannot run."""
    if config.attention == "sdpa":
        return
    if config.precision == "fp32" or not config.use_gpu:
        raise ConfigError(
            f"attention={config.attention}: it computes in bf16 on a GPU alone; set attention=sdpa."
        )
    if not installed:
        raise ConfigError(
            f"attention={config.attention}: the package flash-attn is not installed; "
            "install it, or set attention=sdpa."
        )


def uses_liger(config: TrainConfig, *, installed: bool) -> bool:
    """Whether Liger's kernels are used.

    Raises:
        ConfigError: They are asked for and cannot be.
    """
    match config.kernels:
        case "torch":
            return False
        case "auto":
            return config.use_gpu and installed
        case "liger":
            if installed and config.use_gpu:
                return True
            lacking = "the package liger-kernel" if config.use_gpu else "use_gpu=true"
            raise ConfigError(f"kernels=liger: needs {lacking}; add it, or set kernels=auto.")
        case _:
            assert_never(config.kernels)


def require_embedding(spec: PretrainedModel, rows: int, *, tokens: int) -> None:
    """Raise :class:`DataError` where the tokenizer has ids for which the model has no vector."""
    if tokens > rows:
        raise DataError(
            f"model.path={spec.path}: its tokenizer has {tokens} tokens, its embedding {rows} "
            "rows; fetch both from the same checkpoint."
        )


def _new(
    spec: ScratchModel,
    *,
    attention: str,
    vocab_size: int,
    max_length_tokens: int,
    bos_token_id: int | None,
    eos_token_id: int,
) -> Any:
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.key_value_heads,
        "head_dim": spec.head_size,
        "intermediate_size": spec.intermediate_size,
        "max_position_embeddings": max_length_tokens,
        "tie_word_embeddings": spec.tied_embeddings,
        "initializer_range": spec.initializer_range,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": 0,
        "attn_implementation": attention,
    }
    # Imported here: the Auto classes would take twice as long to load as one model.
    match spec.family:
        case "llama":
            from transformers.models.llama.configuration_llama import LlamaConfig
            from transformers.models.llama.modeling_llama import LlamaForCausalLM

            return LlamaForCausalLM(LlamaConfig(**settings))
        case "gemma":
            from transformers.models.gemma.configuration_gemma import GemmaConfig
            from transformers.models.gemma.modeling_gemma import GemmaForCausalLM

            return GemmaForCausalLM(GemmaConfig(hidden_activation="gelu_pytorch_tanh", **settings))
        case _:
            assert_never(spec.family)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _use_liger(model: Any) -> None:
    from transformers.integrations.liger import apply_liger_kernel

    # Its fused loss would take the place of ours, which knows whole global batches.
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def _load(folder: Path, *, dtype: torch.dtype, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    require_safetensors(folder)
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as exc:
        raise DataError(f"{folder}: cannot be loaded ({exc}); check the checkpoint.") from None
