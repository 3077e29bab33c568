"""LoRA, through peft: additions of low rank that are trained in the model's stead."""

from collections.abc import Iterable
from typing import Any, Final

import torch

from aligner.errors import ConfigError
from aligner_jobs.config.adapter import Lora

_NAME: Final = "default"
_BASE: Final = ".base_layer."
_ADDED: Final = ".lora_"


def add_lora(model: Any, spec: Lora) -> None:
    """Freeze ``model`` and add ``spec`` to its linear layers, in place; it begins as a zero.

    Raises:
        ConfigError: The model has no linear layer of a name that ``spec`` targets.
    """
    linear = {
        name.rpartition(".")[2]
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    if unknown := sorted(set(spec.targets) - linear):
        raise ConfigError(
            f"adapter.targets: the model has no linear layers {', '.join(unknown)}; "
            f"it has {', '.join(sorted(linear))}. Name some of them, or none for all."
        )
    # In the function: most runs train all weights and need not wait for it.
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=list(spec.targets) or "all-linear",
    )
    inject_adapter_in_model(settings, model, adapter_name=_NAME)


def is_addition(name: str) -> bool:
    """Whether the weight of that name is none of the model's own."""
    return _ADDED in name


def own_name(name: str) -> str:
    """A weight's name in the model without additions."""
    return name.replace(_BASE, ".")


def peft_name(name: str) -> str:
    """What PEFT's files call the addition ``name``."""
    return f"base_model.model.{name.replace(f'.{_NAME}.', '.')}"


def peft_config(spec: Lora, additions: Iterable[str], *, base: str) -> dict[str, Any]:
    """``adapter_config.json``: ``spec`` as it was applied, to the layers of ``additions``."""
    layers = {name.partition(_ADDED)[0].rpartition(".")[2] for name in additions}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": sorted(layers),
        "bias": "none",
        "inference_mode": True,
    }


def addition_to(module: Any, name: str) -> Any | None:
    """The layer whose addition belongs to the weight ``name`` of ``module``, if there is one."""
    layer, base, weight = name.rpartition(_BASE)
    return module.get_submodule(layer) if base and weight == "weight" else None


def parts(layer: Any) -> list[torch.nn.Parameter]:
    """The two factors of an addition."""
    return [layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight]


def merged(weight: torch.Tensor, layer: Any) -> torch.Tensor:
    """A copy of ``weight`` with the addition of ``layer``, summed in fp32."""
    into, out_of = (factor.detach().float() for factor in parts(layer))
    # In place: the weights of a large layer would else be there in fp32 three times.
    total = weight.to(torch.float32, copy=True)
    return total.addmm_(out_of, into, alpha=layer.scaling[_NAME]).to(weight.dtype)
