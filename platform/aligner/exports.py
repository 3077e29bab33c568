"""Exports, as whoever runs one needs them: on this machine, verified, and of a known length."""

import hashlib
import json
from pathlib import Path
from typing import Final

import pyarrow.fs as pafs

from aligner import artefacts
from aligner.config import StrictModel
from aligner.errors import ContractMismatch, DataError
from aligner.manifest import Manifest
from aligner.prompt import PromptTemplate
from aligner.tracking import ModelVersion

FINGERPRINT_TAG: Final = "prompt_fingerprint"
HASH_TAG: Final = "export_hash"
"""Tags that a model version is registered with."""

ADAPTER: Final = "adapter"
"""Folder inside an export, and the fact that tells of it in its manifest."""


class Adapter(StrictModel):
    """What training has added to a model, which stands beside the merged weights of an export."""

    base: str
    """Where the model lay that was added to."""

    base_hash: str
    """Of that model's weights, see :func:`weights_hash`."""

    rank: int
    """Width of the additions."""


def adapter_of(manifest: Manifest) -> Adapter | None:
    """The adapter that an export holds in its folder ``adapter``, in PEFT's layout."""
    told = manifest.facts.get(ADAPTER)
    return None if told is None else Adapter.model_validate(told)


def weights_hash(folder: Path) -> str:
    """SHA-256 over the ``*.safetensors`` files of a model's folder, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            one = hashlib.file_digest(stream, "sha256")
        digest.update(f"{path.name} {one.hexdigest()}\n".encode())
    return digest.hexdigest()


def require_aligner(manifest: Manifest, *, where: str) -> PromptTemplate:
    """The prompt of an export that corrects answers; training makes upstreams, too.

    Raises:
        ContractMismatch: It was trained to answer questions, or with a prompt that this code
            renders otherwise.
    """
    objective = manifest.spec.get("objective") or {}
    if (kind := objective.get("kind", "correction")) != "correction":
        raise ContractMismatch(
            f"{where}: was trained with objective.kind={kind} to answer questions, not to correct "
            "answers; name an export that was trained with objective.kind=correction."
        )
    return manifest.require_fingerprint(where=where)


def require_same(found: ModelVersion, manifest: Manifest) -> None:
    """Hold what the registry tells of a version against the export that stands at its source.

    Raises:
        ContractMismatch: They speak of different exports or prompts.
    """
    actual = {FINGERPRINT_TAG: manifest.prompt_fingerprint, HASH_TAG: manifest.content_hash}
    for tag, value in actual.items():
        if found.tags.get(tag, value) != value:
            raise ContractMismatch(
                f"{found.uri}: was registered with {tag} {found.tags[tag]}, the export at "
                f"{found.source} has {value}; restore that export or register this one."
            )


def fetch(uri: str, manifest: Manifest, *, into: Path) -> Path:
    """The folder of the export at ``uri``, every file compared with ``manifest``.

    A local export is used where it stands, any other is copied ``into`` that folder.

    Raises:
        DataError: A file is missing, differs or cannot be fetched.
    """
    filesystem, path = artefacts.resolve(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        folder = Path(path)
    else:
        folder = into / manifest.content_hash[:16]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            pafs.copy_files(path, str(folder), filesystem, pafs.LocalFileSystem())
        except OSError as exc:
            raise DataError(f"{uri}: cannot be fetched ({type(exc).__name__}); try again.") from exc
    artefacts.verify(folder, manifest)
    return folder


def computed_in(folder: Path, dtype: str) -> str:
    """What vLLM computes in where the model in ``folder`` is to run in ``dtype``.

    ``auto`` is what it was saved in, but for float32, of which vLLM makes bfloat16.

    Raises:
        DataError: ``config.json`` is missing or broken.
    """
    if dtype != "auto":
        return dtype
    path = folder / "config.json"
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path}: cannot be read; export the model again.") from None
    # Transformers has called it by both names.
    saved = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return "bfloat16" if saved == "float32" else saved


def context_tokens(folder: Path) -> int:
    """Prompt and correction together, in tokens, that the model was made for.

    Raises:
        DataError: ``config.json`` is missing, broken or does not say.
    """
    path = folder / "config.json"
    try:
        limit = json.loads(path.read_text(encoding="utf-8"))["max_position_embeddings"]
        return int(limit)
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{path}: does not say max_position_embeddings; export the model again."
        ) from None
