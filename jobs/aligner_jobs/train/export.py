"""The trained model in Hugging Face's layout, as an export artefact."""

import contextlib
import copy
from pathlib import Path
from typing import Any

from aligner import artefacts
from aligner.adapters.hf_tokenizer import HfTokenizer, write_files
from aligner.errors import AlignerError, DataError
from aligner.manifest import Manifest, provenance
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.material import Material
from aligner_jobs.train.weights import write_weights


def write_export(
    engine: Any,
    *,
    config: TrainConfig,
    material: Material,
    tokenizer: HfTokenizer,
    facts: dict[str, Any],
    group: Group,
) -> Manifest | None:
    """Publish model, tokenizer, generation settings and manifest at ``config.export_uri``.

    Every worker must call this; the first one writes, and it alone gets the manifest. No worker
    ever holds the whole model. An export that this very run has left there before it was
    interrupted is kept as it is.

    Raises:
        DataError: Something else stands there, or it cannot be written; on the first worker alone.
    """
    with contextlib.ExitStack() as stack:
        place: artefacts.Staging | Manifest | AlignerError | None = None
        if group.rank == 0:
            place = _place(stack, config.export_uri, run_name=material.run_name)
        staging = place if isinstance(place, artefacts.Staging) else None
        (writers,) = group.total(float(staging is not None))
        failure = None
        if writers:
            failure = write_weights(
                engine.module,
                staging.path if staging else None,
                shard_bytes=config.export.shard_bytes,
                partitioned=config.zero.stage == 3,
            )
        if isinstance(place, AlignerError):
            raise place
        if failure is not None:
            raise DataError(
                f"{config.export_uri}: the weights cannot be written ({failure}); make room or "
                "see to the folder, and run the same command again."
            )
        if staging is None:
            return place if isinstance(place, Manifest) else None
        _write_settings(engine.module, staging.path, tokenizer=tokenizer)
        write_files(material.tokenizer, staging.path, overwrite=False)
        return _published(staging, config=config, material=material, facts=facts)


def _place(
    stack: contextlib.ExitStack, uri: str, *, run_name: str
) -> artefacts.Staging | Manifest | AlignerError:
    """Where to write, this run's export that stands there already, or why nothing can be written.

    The error is returned: the other workers must be told before it is raised.
    """
    try:
        if artefacts.exists(uri):
            found = artefacts.read_manifest(uri, kind="export")
            if found.name == run_name:
                return found
        return stack.enter_context(artefacts.staging(uri))
    except AlignerError as exc:
        return exc


def _published(
    staging: artefacts.Staging, *, config: TrainConfig, material: Material, facts: dict[str, Any]
) -> Manifest:
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


def _write_settings(module: Any, folder: Path, *, tokenizer: HfTokenizer) -> None:
    """``config.json`` and ``generation_config.json``."""
    from transformers import GenerationConfig

    config = copy.deepcopy(module.config)
    config.use_cache = True
    config.architectures = [type(module).__name__]
    config.dtype = str(module.dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    pad = config.pad_token_id
    # Greedy: an Aligner copies most of what it reads, and sampling would only corrupt the copy.
    GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if pad is None else pad,
    ).save_pretrained(folder)
