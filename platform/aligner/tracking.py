"""The seam to experiment tracking and the model registry; the MLflow adapter implements it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import Field, field_serializer

from aligner.config import StrictModel
from aligner.manifest import Manifest
from aligner.tracking_address import redacted

DESCRIPTION_TAG: Final = "mlflow.note.content"
"""MLflow shows this tag's Markdown above a run."""


class TrackingConfig(StrictModel):
    """Where runs and models are recorded."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI: ``sqlite:///file.db`` or ``http://server:5000``."""

    experiment: str = "aligner"
    """Experiment name; made where it does not exist."""

    artifacts: str | None = None
    """Root for a new experiment's files; unset: the server's default (``./mlruns`` for sqlite)."""

    parent_run_id: str | None = None
    """An open run that new runs are shown below."""

    patience_s: float = Field(default=120.0, ge=0)
    """How long training waits at its start, and at its end, for a server that does not answer.
    In between it never waits: what is to be recorded is kept on disk and sent later, in order."""

    @field_serializer("uri", when_used="json")
    def _without_password(self, uri: str) -> str:
        """Configs are shown as parameters and stand in manifests."""
        return redacted(uri)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered Aligner."""

    name: str
    version: str
    source: str
    """URI of the export: a local folder or ``s3://``."""
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """``models:/name/version``."""
        return f"models:/{self.name}/{self.version}"


class Run(Protocol):
    """One open run."""

    @property
    def run_id(self) -> str:
        """Of the tracking server."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings; nested mappings become dotted keys."""

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, at_ms: int | None = None
    ) -> None:
        """Log numbers at a step; ``at_ms`` is when they were measured (Unix time), else now.

        A number that comes again with the same step and time is kept once.
        """

    def log_table(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Show ``rows``, which share their columns; a table of that name is replaced."""

    def log_artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Copy one file (or a folder's files) into the run."""

    def log_dataset(self, manifest: Manifest, uri: str, *, context: str) -> None:
        """Name a dataset artefact as this run's output or input."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run."""

    def history(self) -> Mapping[str, Mapping[int, float]]:
        """Every number logged so far: name to step to value, the last where one came twice."""


class Tracker(Protocol):
    """A tracking server with its model registry."""

    def require_answer(self) -> None:
        """Look whether the server can be reached, without waiting for it.

        Raises:
            TrackingAway: Not at the moment.
        """

    def run(
        self, name: str, *, parent_run_id: str | None = None, run_id: str | None = None
    ) -> AbstractContextManager[Run]:
        """Open a run (or reopen ``run_id``); it ends as failed if the block raises."""

    def register(
        self, name: str, *, source: str, run_id: str, tags: Mapping[str, str]
    ) -> ModelVersion:
        """Add a version of model ``name`` whose files stand at ``source``."""

    def version(self, name: str, version_or_alias: str) -> ModelVersion:
        """Look a version up: by number, by alias (``@champion``), or ``latest``, the newest.

        Raises:
            DataError: There is no such model, version or alias.
        """

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point ``alias`` to ``version``."""

    def set_version_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Tag a version."""
