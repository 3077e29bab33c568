"""What LoRA has added to a model, by itself, in PEFT's layout."""

import json
from pathlib import Path

import torch

from aligner_jobs.config.adapter import Lora
from aligner_jobs.train import lora
from aligner_jobs.train.weights import Weight, saved, whole


def write_adapter(
    module: torch.nn.Module, folder: Path | None, *, spec: Lora, base: str, partitioned: bool
) -> OSError | None:
    """Write the additions in ``module`` to ``folder``; all workers call this, one with a folder.

    Returns:
        Why it cannot be written, as :func:`aligner_jobs.train.weights.write_weights` does.
    """
    if folder is None and not partitioned:
        return None
    tensors: dict[str, torch.Tensor] = {}
    names = []
    for name, tensor in module.named_parameters():
        if lora.is_addition(name):
            names.append(name)
            value = whole(Weight(name, tensor), partitioned=partitioned, keep=folder is not None)
            if value is not None:
                tensors[lora.peft_name(name)] = value.contiguous()
    if folder is None:
        return None
    config = lora.peft_config(spec, names, base=base)
    try:
        folder.mkdir()
        text = json.dumps(config, indent=2) + "\n"
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    except OSError as exc:
        return exc
    return saved(tensors, folder / "adapter_model.safetensors")
