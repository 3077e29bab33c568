"""The trained model in Hugging Face's layout, as an export artefact."""

from pathlib import Path
from typing import Any

import torch

from aligner import artefacts
from aligner.adapters.hf_tokenizer import HfTokenizer, write_files
from aligner.manifest import Manifest, provenance
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.material import Material

_SHARD = "5GB"


def gather_weights(engine: Any, *, stage: int, keep: bool) -> dict[str, torch.Tensor]:
    """All weights on the CPU; every worker must call this, those without ``keep`` get nothing.

    Under ZeRO-3 one parameter at a time is put together, so that no device ever holds the whole.
    """
    # In the function: the driver imports this module too, and has no use for those seconds.
    import deepspeed

    module = engine.module
    if stage < 3:
        return dict(module.state_dict()) if keep else {}
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if keep:
                weights[name] = parameter.detach().cpu().clone()
    return weights


def write_export(
    engine: Any,
    weights: dict[str, torch.Tensor],
    *,
    config: TrainConfig,
    material: Material,
    tokenizer: HfTokenizer,
    facts: dict[str, Any],
) -> Manifest:
    """Publish model, tokenizer, generation settings and manifest at ``config.export_uri``.

    An export that this very run has left there before it was interrupted is kept as it is.

    Raises:
        DataError: Something else stands there.
    """
    if artefacts.exists(config.export_uri):
        found = artefacts.read_manifest(config.export_uri, kind="export")
        if found.name == material.run_name:
            return found
    with artefacts.staging(config.export_uri) as staging:
        _write_model(engine.module, weights, staging.path, tokenizer=tokenizer)
        write_files(material.tokenizer, staging.path, overwrite=False)
        return staging.publish(
            kind="export",
            name=material.run_name,
            prompt=material.template,
            prompt_fingerprint=material.template.fingerprint,
            parents=material.parents,
            counts={split: funnel.rows_out for split, funnel in material.funnels.items()},
            facts={
                **facts,
                "set_aside": {split: dict(f.dropped) for split, f in material.funnels.items()},
            },
            spec=config.model_dump(mode="json"),
            **provenance(),
        )


def _write_model(
    module: Any, weights: dict[str, torch.Tensor], folder: Path, *, tokenizer: HfTokenizer
) -> None:
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()

    use_cache, module.config.use_cache = module.config.use_cache, True
    # Greedy: an Aligner copies most of what it reads, and sampling would only corrupt the copy.
    module.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=module.config.pad_token_id,
    )
    module.save_pretrained(
        folder, state_dict=weights, safe_serialization=True, max_shard_size=_SHARD
    )
    module.config.use_cache = use_cache
    for file in folder.glob("*.safetensors"):
        # They are written for their owner alone, and serving may run as somebody else.
        file.chmod(0o644)
