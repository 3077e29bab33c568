"""A tracking server in memory: for tests, and for trying a job without leaving a trace."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aligner.errors import DataError
from aligner.manifest import Manifest
from aligner.tracking import ModelVersion


@dataclass(slots=True)
class MemoryRun:
    """One run; implements :class:`aligner.tracking.Run` and keeps what it is told."""

    run_id: str
    name: str
    status: str = "RUNNING"
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    """Name to step to value."""
    tables: dict[str, list[dict[str, str | float]]] = field(default_factory=dict)
    """Name to rows."""
    artifacts: list[str] = field(default_factory=list)
    """Paths inside the run."""
    datasets: list[tuple[str, str]] = field(default_factory=list)
    """Content hash and context."""
    tags: dict[str, str] = field(default_factory=dict)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Keep settings, nested as they are."""
        self.params.update(params)

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, at_ms: int | None = None
    ) -> None:
        """Keep numbers at a step."""
        for name, value in metrics.items():
            self.metrics.setdefault(name, {})[step] = value

    def log_table(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Keep the rows."""
        self.tables[name] = [dict(row) for row in rows]

    def log_artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Keep the names of a file, or of a folder's files."""
        inside = Path(folder or "")
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            self.artifacts += [str(inside / file.relative_to(path)) for file in files]
        else:
            self.artifacts.append(str(inside / path.name))

    def log_dataset(self, manifest: Manifest, uri: str, *, context: str) -> None:
        """Keep the artefact's hash."""
        self.datasets.append((manifest.content_hash, context))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keep tags."""
        self.tags.update(tags)

    def history(self) -> Mapping[str, Mapping[int, float]]:
        """A copy of all numbers."""
        return {name: dict(values) for name, values in self.metrics.items()}


class MemoryTracker:
    """Implements :class:`aligner.tracking.Tracker`; runs and versions can be looked at."""

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}
        self.versions: dict[str, list[ModelVersion]] = {}
        """Name to versions, oldest first."""
        self.aliases: dict[tuple[str, str], str] = {}
        """Name and alias to version."""

    def require_answer(self) -> None:
        """It always does."""

    @contextlib.contextmanager
    def run(
        self, name: str, *, parent_run_id: str | None = None, run_id: str | None = None
    ) -> Iterator[MemoryRun]:
        """Open a run (or reopen ``run_id``); it ends as failed if the block raises."""
        run_id = run_id or f"run-{len(self.runs) + 1}"
        run = self.runs.setdefault(run_id, MemoryRun(run_id, name))
        run.status = "FAILED"
        yield run
        run.status = "FINISHED"

    def register(
        self, name: str, *, source: str, run_id: str, tags: Mapping[str, str]
    ) -> ModelVersion:
        """Add a version of model ``name`` whose files stand at ``source``, once for each run."""
        versions = self.versions.setdefault(name, [])
        for version in versions:
            if (version.source, version.run_id) == (source, run_id):
                return version
        versions.append(ModelVersion(name, str(len(versions) + 1), source, run_id, dict(tags)))
        return versions[-1]

    def version(self, name: str, version_or_alias: str) -> ModelVersion:
        """Look a version up: by number, by alias (``@champion``), or ``latest``, the newest.

        Raises:
            DataError: There is no such model, version or alias.
        """
        versions = self.versions.get(name, [])
        wanted = version_or_alias.removeprefix("@")
        number = str(len(versions)) if wanted == "latest" else wanted
        number = self.aliases.get((name, wanted), number)
        for version in versions:
            if version.version == number:
                return version
        raise DataError(f"memory: model {name!r} has no version or alias {wanted!r}; register one.")

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point ``alias`` to ``version``."""
        self.aliases[name, alias] = self.version(name, version).version

    def set_version_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Tag a version."""
        versions = self.versions[name]
        place = versions.index(self.version(name, version))
        versions[place] = replace(versions[place], tags={**versions[place].tags, **tags})
