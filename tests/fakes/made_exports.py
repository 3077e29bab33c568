"""An export of weights that nobody has trained."""

from types import SimpleNamespace
from typing import Any

import torch

from aligner.adapters.hf_tokenizer import open_files
from aligner.manifest import Manifest
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.export import write_export
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.material import Material
from aligner_jobs.train.model import build_model


def written(config: TrainConfig, material: Material) -> tuple[Manifest, Any]:
    """Write the export that ``config`` names, by one worker; the manifest and the model."""
    tokenizer = open_files(material.tokenizer)
    model: Any = build_model(
        config,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    manifest = write_export(
        SimpleNamespace(module=model),
        config=config,
        material=material,
        tokenizer=tokenizer,
        facts={"parameters": 1, "metrics": {}},
        group=Group(rank=0, world_size=1, device=torch.device("cpu")),
    )
    assert manifest is not None
    return manifest, model
