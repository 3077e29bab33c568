"""The Aligner under test: found in the registry or by its path, verified, ready to run."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aligner import artefacts, exports
from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.errors import ConfigError
from aligner.manifest import Manifest
from aligner.prompt import PromptTemplate
from aligner.reports import ModelUnderTest
from aligner.tracking import ModelVersion, Tracker
from aligner_jobs.config.aligner import AlignerModel


@dataclass(frozen=True, slots=True)
class Subject:
    """A verified export on this machine."""

    folder: Path
    uri: str
    manifest: Manifest
    template: PromptTemplate
    tokenizer: HfTokenizer
    context_tokens: int
    """Prompt and correction together."""
    version: ModelVersion | None
    """Unset for an export that was given by its path."""

    @property
    def described(self) -> ModelUnderTest:
        """As the report names it."""
        return ModelUnderTest(
            export_uri=self.uri,
            export_hash=self.manifest.content_hash,
            prompt_name=self.template.name,
            prompt_fingerprint=self.manifest.prompt_fingerprint,
            name=self.version.name if self.version else None,
            version=self.version.version if self.version else None,
        )


@contextlib.contextmanager
def open_subject(config: AlignerModel, tracker: Tracker) -> Iterator[Subject]:
    """Yield the Aligner that ``config`` names; what had to be copied here is removed at the end.

    Raises:
        DataError: There is no such model, version, alias or export, or a file is damaged.
        ContractMismatch: This code renders another prompt than the Aligner was trained on, or
            the registry tells of another export.
        ConfigError: A longer context is wanted than the model was made for.
    """
    version = None
    if config.model is not None:
        version = tracker.version(config.model_name, config.model_version)
    uri = version.source if version is not None else str(config.export)
    manifest = artefacts.read_manifest(uri, kind="export")
    template = exports.require_aligner(manifest, where=version.uri if version else uri)
    if version is not None:
        exports.require_same(version, manifest)
    with tempfile.TemporaryDirectory(prefix="aligner-evaluate-") as cache:
        folder = exports.fetch(uri, manifest, into=Path(cache))
        yield Subject(
            folder=folder,
            uri=uri,
            manifest=manifest,
            template=template,
            tokenizer=HfTokenizer.load(folder),
            context_tokens=_context_tokens(folder, config.engine.max_model_len_tokens),
            version=version,
        )


def _context_tokens(folder: Path, wanted: int | None) -> int:
    limit = exports.context_tokens(folder)
    if wanted is not None and wanted > limit:
        raise ConfigError(
            f"engine.max_model_len_tokens: {wanted} is more than the {limit} tokens that the "
            "model was made for; lower it or leave it out."
        )
    return wanted or limit
