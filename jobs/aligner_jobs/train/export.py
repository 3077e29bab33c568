"""The trained model in Hugging Face's layout, as an export artefact."""

import contextlib
import copy
from pathlib import Path
from typing import Any

from aligner import artefacts, exports
from aligner.adapters.hf_tokenizer import HfTokenizer, write_files
from aligner.errors import AlignerError, DataError
from aligner.manifest import Manifest, provenance
from aligner_jobs.config.model import PretrainedModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.adapter_file import write_adapter
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.material import Material
from aligner_jobs.train.model import local_folder
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
            # Written even after a failure: under ZeRO-3 the other workers take part in it.
            further = _write_adapter(engine.module, staging, config=config)
            failure = failure or further
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
            **_adapter_fact(config),
            "set_aside": {split: dict(f.dropped) for split, f in material.funnels.items()},
        },
        spec=config.model_dump(mode="json"),
        **provenance(),
    )


def _write_adapter(
    module: Any, staging: artefacts.Staging | None, *, config: TrainConfig
) -> OSError | None:
    """What LoRA has added by itself, where that is asked for; all workers take part."""
    if not config.export.adapter or config.adapter is None:
        return None
    return write_adapter(
        module,
        staging.path / exports.ADAPTER if staging else None,
        spec=config.adapter,
        base=_base(config),
        partitioned=config.zero.stage == 3,
    )


def _adapter_fact(config: TrainConfig) -> dict[str, Any]:
    if not config.export.adapter or config.adapter is None:
        return {}
    assert isinstance(config.model, PretrainedModel)
    found = exports.Adapter(
        base=_base(config),
        base_hash=exports.weights_hash(local_folder(config.model)),
        rank=config.adapter.rank,
    )
    return {exports.ADAPTER: found.model_dump(mode="json")}


def _base(config: TrainConfig) -> str:
    assert isinstance(config.model, PretrainedModel)
    return config.model.path


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
