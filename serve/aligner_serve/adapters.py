"""Aligners as additions of low rank (LoRA) to one model, which one engine then holds once."""

from collections.abc import Mapping
from pathlib import Path

from aligner import artefacts, exports
from aligner.errors import ConfigError, ContractMismatch
from aligner.manifest import FILE_NAME
from aligner_serve.release import Weights


def model_folder(model: str, *, cache: str) -> Path:
    """Where ``model`` lies on this machine: a folder, or an export, verified and maybe fetched."""
    folder = Path(model).expanduser().absolute()
    if "://" not in model and not (folder / FILE_NAME).is_file():
        return folder
    manifest = artefacts.read_manifest(model, kind="export")
    return exports.fetch(model, manifest, into=Path(cache).expanduser().absolute())


def base_folder(base: str, *, cache: str) -> Path:
    """Where the model ``base`` lies on this machine: a folder, or an export fetched to ``cache``.

    Raises:
        ConfigError: There is no model.
        DataError: An export's file differs from its manifest.
    """
    folder = model_folder(base, cache=cache)
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"engine.base: no model lies in {base}; name the folder of the model that the "
            "adapters were trained on."
        )
    return folder


def folders(released: Mapping[str, Weights], *, base: Path) -> dict[str, Path]:
    """The adapter in each of these exports, by version.

    Raises:
        ContractMismatch: An export has none, or its adapter was trained on another model.
    """
    found = exports.weights_hash(base)
    for version, weights in released.items():
        adapter = exports.adapter_of(weights.manifest)
        if adapter is None:
            raise ContractMismatch(
                f"{version}: holds no adapter to add to engine.base; train it with adapter.kind="
                "lora and export.adapter=true, or set engine.base=null."
            )
        if adapter.base_hash != found:
            raise ContractMismatch(
                f"{version}: its adapter was trained on another model ({adapter.base_hash[:12]}) "
                f"than lies in {base} ({found[:12]}); correct engine.base, or give this aligner "
                "an engine of its own."
            )
    return {version: weights.folder / exports.ADAPTER for version, weights in released.items()}
