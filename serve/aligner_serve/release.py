"""Which weights are served: alias -> version -> export, checked before anything starts."""

import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.fs as pafs

from aligner import artefacts, exports
from aligner.config import StrictModel
from aligner.errors import ConfigError, ContractMismatch, DataError
from aligner.keeping import KeepCalibration
from aligner.manifest import Manifest
from aligner.tracking import ModelVersion, Tracker, TrackingConfig
from aligner_serve.config.aligner import EngineConfig, KeepConfig
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import FromPath, FromRegistry
from aligner_serve.keeping import calibration_of

_SQLITE: Final = "sqlite:///"


class Release(StrictModel):
    """An aligner that may be served; crosses process borders as a plain dict."""

    version: str
    """``models:/name/number``, or the content hash of an export named by its place."""

    uri: str
    """Where the export stands."""

    content_hash: str
    """Of its manifest."""

    prompt_fingerprint: str
    """Of its manifest, and of what this code renders."""

    keep: KeepCalibration | None = None
    """Which answers it keeps, where the settings want that; another one is another release."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A verified export on this machine."""

    folder: Path
    manifest: Manifest

    @property
    def context_tokens(self) -> int | None:
        """What the model was made for, prompt and correction together; ``None``: it does not say.

        Raises:
            DataError: ``config.json`` is missing or broken.
        """
        path = self.folder / "config.json"
        try:
            config: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise DataError(f"{path}: cannot be read; export the model again.") from None
        limit = config.get("max_position_embeddings") if isinstance(config, dict) else None
        return limit if isinstance(limit, int) else None


class Registry:
    """Where the seats of a graph find their releases; asked again whenever somebody asks."""

    def __init__(self, config: GraphConfig, *, tracker: Tracker | None = None) -> None:
        """Nothing is opened yet."""
        self._config = config
        self._tracker = tracker

    def resolve(self, seat: str) -> Release:
        """:func:`resolve` for the seat of that name."""
        place = self._config.seats[seat]
        source, keep = place.source, self._config.aligners[place.aligner].keep
        if self._tracker is None and isinstance(source, FromRegistry):
            self._tracker = _open(self._config.tracking)
        return resolve(source, self._config.tracking, tracker=self._tracker, keep=keep)

    def resolve_all(self) -> dict[str, Release]:
        """What every seat should serve now."""
        return {seat: self.resolve(seat) for seat in self._config.seats}

    def fetch(self, seat: str, release: Release) -> None:
        """Have ``release`` verified on this machine, and see that it fits the seat's settings.

        Raises:
            DataError: It is gone, or a file is missing or differs.
            ContractMismatch: It is not the export that was released, or is to keep answers by
                scores that the seat's engine computes otherwise.
            ConfigError: The seat wants a longer context than the model was made for.
        """
        engine = self._config.engine_of(self._config.seats[seat].aligner)
        weights = fetch(release, cache=self._config.cache)
        require_context(weights, engine.max_model_len_tokens)
        require_dtype(release.keep, weights, engine, where=release.version)


def resolve(
    source: FromRegistry | FromPath,
    tracking: TrackingConfig,
    *,
    tracker: Tracker | None = None,
    keep: KeepConfig | None = None,
) -> Release:
    """Find the export that ``source`` names and hold it against this code's prompt.

    Raises:
        ConfigError: It is to keep answers and has no calibration for that.
        ContractMismatch: It was made with a prompt that this code renders otherwise, or the
            registry's tags or the calibration tell of another export.
        DataError: There is no such model, version, alias, export or calibration.
    """
    tags: Mapping[str, str] = {}
    match source:
        case FromPath(uri=uri):
            manifest = artefacts.read_manifest(uri, kind="export")
            version = manifest.content_hash[:12]
        case FromRegistry(model=model, version=wanted):
            found = (tracker or _open(tracking)).version(model, wanted)
            uri, version, tags = found.source, found.uri, found.tags
            manifest = artefacts.read_manifest(uri, kind="export")
            _require_tags(found, manifest)
    exports.require_aligner(manifest, where=version)
    return Release(
        version=version,
        uri=uri,
        content_hash=manifest.content_hash,
        prompt_fingerprint=manifest.prompt_fingerprint,
        keep=keep and calibration_of(keep, manifest, tags=tags, where=version),
    )


def fetch(release: Release, *, cache: str) -> Weights:
    """Bring the export onto this machine and compare every file with its manifest.

    A local folder is used where it stands; an ``s3://`` one is kept in ``cache``.

    Raises:
        DataError: It is gone, or a file is missing or differs.
        ContractMismatch: It is not the export that was released.
    """
    manifest = artefacts.read_manifest(release.uri, kind="export")
    if manifest.content_hash != release.content_hash:
        raise ContractMismatch(
            f"{release.uri}: is not the export that {release.version} was released with; "
            "restore it, or register the new one as a version of its own."
        )
    filesystem, path = artefacts.resolve(release.uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        artefacts.verify(Path(path), manifest)
        return Weights(Path(path), manifest)
    folder = Path(cache).expanduser().absolute() / release.content_hash
    if not folder.is_dir():
        _download(filesystem, path, folder, manifest)
    return Weights(folder, manifest)


def require_context(weights: Weights, wanted_tokens: int | None) -> int:
    """The context length to run with.

    Raises:
        ConfigError: More is wanted than the model was made for, or neither side says.
    """
    limit = weights.context_tokens
    wanted = wanted_tokens or limit
    if wanted is None:
        raise ConfigError(
            f"{weights.folder}/config.json: does not say how long a context the model has; "
            "set engine.max_model_len_tokens."
        )
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"engine.max_model_len_tokens: {wanted} is more than the {limit} tokens that "
            "the model was made for; lower it."
        )
    return wanted


def require_dtype(
    keep: KeepCalibration | None, weights: Weights, engine: EngineConfig, *, where: str
) -> None:
    """See that ``engine`` computes the scores that answers are kept by as they were calibrated.

    Raises:
        ContractMismatch: It computes in another dtype.
        DataError: ``config.json``, which says what ``auto`` is, is missing or broken.
    """
    if keep is not None:
        keep.require_dtype(exports.computed_in(weights.folder, engine.dtype), where=where)


def room_tokens(
    *, prompt: int, answer: int, context: int, max_tokens: int, headroom_ratio: float
) -> int | None:
    """Tokens that a correction may have, EOS included; ``None``: the pair does not fit.

    All arguments but the ratio are in tokens.
    """
    room = min(max_tokens, context - prompt)
    needed = math.ceil(answer * headroom_ratio) + 1
    return room if room >= needed else None


def _open(tracking: TrackingConfig) -> Tracker:
    if tracking.uri.startswith(_SQLITE):
        path = Path(tracking.uri.removeprefix(_SQLITE))
        # Opening would create an empty one, and the message would be about a missing model.
        if not path.is_file():
            raise DataError(
                f"tracking.uri: there is no database {path}; train and promote a model first, "
                "or correct the path."
            )
    # MLflow takes seconds to import; a typo in the config must not wait for it.
    from aligner.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(tracking)


def _require_tags(found: ModelVersion, manifest: Manifest) -> None:
    """The registry and the export must speak of the same thing."""
    checks = {
        exports.FINGERPRINT_TAG: manifest.prompt_fingerprint,
        exports.HASH_TAG: manifest.content_hash,
    }
    for tag, actual in checks.items():
        told = found.tags.get(tag)
        if told is None and tag == exports.HASH_TAG:
            continue
        if told != actual:
            raise ContractMismatch(
                f"{found.uri}: the registry's {tag} is {told or 'missing'}, the export at "
                f"{found.source} has {actual}; register the export again."
            )


def _download(filesystem: pafs.FileSystem, path: str, folder: Path, manifest: Manifest) -> None:
    """Into ``folder``, which appears only when it is whole and verified."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        try:
            pafs.copy_files(path, str(partial), filesystem, pafs.LocalFileSystem())
        except OSError as exc:
            raise DataError(
                f"{path}: cannot be fetched ({type(exc).__name__}); try again."
            ) from exc
        artefacts.verify(partial, manifest)
        try:
            os.replace(partial, folder)
        except OSError:
            # Another replica on this machine was quicker, with the same verified content.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
