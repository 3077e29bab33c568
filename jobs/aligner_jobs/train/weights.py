"""From a partitioned model to files of weights, with one file's worth in memory at a time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aligner_jobs.train import lora


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """One tensor of the export."""

    name: str
    tensor: torch.Tensor
    """The model's own; under ZeRO-3 this worker holds a part of it."""
    layer: Any | None = None
    """Whose addition is merged into it."""

    @property
    def size_bytes(self) -> int:
        """Of the whole tensor."""
        elements: int = getattr(self.tensor, "ds_numel", self.tensor.numel())
        return elements * self.tensor.element_size()


def weights_of(module: torch.nn.Module) -> list[Weight]:
    """What Hugging Face's layout holds of ``module``, in its order; what is tied comes once."""
    seen: set[int] = set()
    weights = []
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in seen or lora.is_addition(name):
            continue
        seen.add(id(tensor))
        layer = lora.addition_to(module, name)
        weights.append(Weight(lora.own_name(name), tensor, layer))
    return weights


def files_of(weights: Sequence[Weight], *, shard_bytes: int) -> list[list[Weight]]:
    """``weights`` in their order, in files of at most ``shard_bytes`` or of a single weight."""
    files: list[list[Weight]] = []
    room = 0
    for weight in weights:
        if not files or weight.size_bytes > room:
            files.append([])
            room = shard_bytes
        files[-1].append(weight)
        room -= weight.size_bytes
    return files


def write_weights(
    module: torch.nn.Module, folder: Path | None, *, shard_bytes: int, partitioned: bool
) -> OSError | None:
    """Write the files and their index to ``folder``; every worker calls this, one with a folder.

    Under ZeRO-3 (``partitioned``) one weight after another is put together and taken apart again:
    the worker that writes holds one file's weights, the others one weight.

    Returns:
        Why nothing more could be written. It does not raise, because the others would wait for ever
        for the one that writes.
    """
    if folder is None and not partitioned:
        return None
    files = files_of(weights_of(module), shard_bytes=shard_bytes)
    failure: OSError | None = None
    for number, weights in enumerate(files, start=1):
        tensors: dict[str, torch.Tensor] = {}
        for weight in weights:
            value = whole(weight, partitioned=partitioned, keep=folder is not None)
            if value is not None and failure is None:
                tensors[weight.name] = value
        if folder is not None and failure is None:
            failure = saved(tensors, folder / _file_name(number, len(files)))
    if folder is not None and len(files) > 1 and failure is None:
        _write_index(files, folder)
    return failure


def whole(weight: Weight, *, partitioned: bool, keep: bool) -> torch.Tensor | None:
    """The whole tensor in this machine's memory, its addition merged; all workers take part."""
    if not partitioned:
        value = weight.tensor.detach()
        return (value if weight.layer is None else lora.merged(value, weight.layer)).cpu()
    # In the function: the driver imports this module too, and has no use for those seconds.
    import deepspeed

    factors = [] if weight.layer is None else lora.parts(weight.layer)
    with deepspeed.zero.GatheredParameters([weight.tensor, *factors]):
        if not keep:
            return None
        value = weight.tensor.detach()
        if weight.layer is not None:
            return lora.merged(value, weight.layer).cpu()
        return value.to("cpu", copy=True)


def saved(tensors: dict[str, torch.Tensor], path: Path) -> OSError | None:
    """Write one file; the result is why it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
        # It is written for its owner alone, and serving may run as somebody else.
        path.chmod(0o644)
    except OSError as exc:
        return exc
    except SafetensorError as exc:
        return OSError(str(exc))
    return None


def _file_name(number: int, files: int) -> str:
    if files == 1:
        return "model.safetensors"
    return f"model-{number:05d}-of-{files:05d}.safetensors"


def _write_index(files: Sequence[Sequence[Weight]], folder: Path) -> None:
    index = {
        "metadata": {"total_size": sum(w.size_bytes for weights in files for w in weights)},
        "weight_map": {
            weight.name: _file_name(number, len(files))
            for number, weights in enumerate(files, start=1)
            for weight in weights
        },
    }
    text = json.dumps(index, indent=2) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
