"""MLflow as :class:`aligner.tracking.Tracker`: sqlite and local files, or a server.

Everything goes through one client object per tracker; MLflow's process-wide state (active run,
tracking URI) is never touched, so that trackers of different places can live side by side.
"""

import contextlib
import getpass
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aligner.errors import ConfigError, DataError, TrackingError
from aligner.manifest import Manifest, provenance
from aligner.tracking import ModelVersion, TrackingConfig
from aligner.tracking_address import redacted, require_answer, sentences

LATEST: Final = "latest"

_MAX_KEY_CHARS: Final = 250
_MAX_VALUE_CHARS: Final = 6000
_MAX_DIGEST_CHARS: Final = 36
_MAX_METRICS: Final = 1000
_MAX_PARAMS: Final = 100
_MAX_TAG_CHARS: Final = 8000
_EXPERIMENT_KIND: Final = "custom_model_development"
"""MLflow's pages begin with runs and their curves, not with traces of chats."""


class MlflowRun:
    """One open run; implements :class:`aligner.tracking.Run`."""

    def __init__(self, client: Any, run_id: str, uri: str) -> None:
        """``client`` is an ``MlflowClient``; ``uri`` is only for messages."""
        self._client = client
        self._run_id = run_id
        self._uri = uri

    @property
    def run_id(self) -> str:
        """Of the tracking server."""
        return self._run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings; nested mappings become dotted keys.

        A parameter can be logged once: in a reopened run the first value stays.
        """
        from mlflow.entities import Param

        with sentences(self._uri):
            known = self._client.get_run(self._run_id).data.params
            new = [
                Param(key, value[:_MAX_VALUE_CHARS])
                for key, value in _flat(params)
                if key not in known
            ]
            for start in range(0, len(new), _MAX_PARAMS):
                self._client.log_batch(self._run_id, params=new[start : start + _MAX_PARAMS])

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, at_ms: int | None = None
    ) -> None:
        """Log numbers at a step, in one request; MLflow passes over what it has already."""
        from mlflow.entities import Metric

        at_ms = int(time.time() * 1000) if at_ms is None else at_ms
        entries = [Metric(_key(name), float(v), at_ms, step) for name, v in metrics.items()]
        with sentences(self._uri):
            for start in range(0, len(entries), _MAX_METRICS):
                self._client.log_batch(self._run_id, metrics=entries[start : start + _MAX_METRICS])

    def log_table(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Show ``rows`` among the run's tables; one of that name is replaced.

        MLflow's own ``log_table`` adds rows to a table that is there, also those that are in it.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS as TABLES

        file = f"{_key(name)}.json"
        columns = list(rows[0]) if rows else []
        table = {"columns": columns, "data": [[row[c] for c in columns] for row in rows]}
        with sentences(self._uri):
            self._client.log_dict(self._run_id, table, file)
            shown = json.loads(self._client.get_run(self._run_id).data.tags.get(TABLES, "[]"))
            if (entry := {"path": file, "type": "table"}) not in shown:
                shown.append(entry)
                # MLflow cuts longer tags off, in the middle of the JSON; the files stay all.
                while len(text := json.dumps(shown)) > _MAX_TAG_CHARS:
                    shown.pop(0)
                self._client.set_tag(self._run_id, TABLES, text)

    def log_artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Copy one file (or a folder's files) into the run."""
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        with sentences(self._uri):
            log(self._run_id, str(path), folder)

    def log_dataset(self, manifest: Manifest, uri: str, *, context: str) -> None:
        """Name a dataset artefact as this run's output or input.

        MLflow's digest holds 36 characters: the whole hash stands in the tag ``content_hash``.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=manifest.name,
            digest=manifest.content_hash[:_MAX_DIGEST_CHARS],
            source_type="s3" if uri.startswith("s3://") else "local",
            source=json.dumps({"uri": _absolute(uri)}),
            profile=json.dumps({"kind": manifest.kind, **manifest.counts}),
        )
        tags = [
            InputTag("mlflow.data.context", context),
            InputTag("content_hash", manifest.content_hash),
        ]
        with sentences(self._uri):
            self._client.log_inputs(self._run_id, [DatasetInput(dataset, tags)])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run."""
        from mlflow.entities import RunTag

        entries = [RunTag(_key(name), str(value)) for name, value in tags.items()]
        with sentences(self._uri):
            for start in range(0, len(entries), _MAX_PARAMS):
                self._client.log_batch(self._run_id, tags=entries[start : start + _MAX_PARAMS])

    def history(self) -> Mapping[str, Mapping[int, float]]:
        """Every number logged so far: one request for each name."""
        with sentences(self._uri):
            names = self._client.get_run(self._run_id).data.metrics
            found = {name: self._client.get_metric_history(self._run_id, name) for name in names}
        return {name: {one.step: one.value for one in values} for name, values in found.items()}


class MlflowTracker:
    """A tracking server with its model registry; implements :class:`aligner.tracking.Tracker`."""

    def __init__(self, config: TrackingConfig) -> None:
        """Connect; the experiment is made where it does not exist.

        Raises:
            TrackingAway: The server does not answer, or another program holds the database.
            TrackingError: The database cannot be used.
            ConfigError: The experiment was deleted, or the URI is none that MLflow knows.
        """
        self._uri, self._address = redacted(config.uri), config.uri
        self.require_answer()
        self._client = _client(config.uri)
        with sentences(self._uri):
            self._experiment_id = self._experiment(config)

    @property
    def experiment_id(self) -> str:
        """Of the experiment that runs and traces are put into."""
        return self._experiment_id

    def require_answer(self) -> None:
        """Look whether the server can be reached, within seconds.

        Raises:
            TrackingAway: Not at the moment.
        """
        require_answer(self._address)

    def _experiment(self, config: TrackingConfig) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(config.experiment)
        if found is None:
            location = None if config.artifacts is None else _absolute(config.artifacts)
            try:
                return str(
                    self._client.create_experiment(
                        config.experiment, location, {"mlflow.experimentKind": _EXPERIMENT_KIND}
                    )
                )
            except MlflowException as exc:
                # Another process may have made it in the meantime.
                if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(config.experiment)
        if found.lifecycle_stage != "active":
            raise ConfigError(
                f"tracking.experiment: {config.experiment!r} was deleted in {self._uri}; "
                "restore it or choose another name."
            )
        return str(found.experiment_id)

    @contextlib.contextmanager
    def run(
        self, name: str, *, parent_run_id: str | None = None, run_id: str | None = None
    ) -> Iterator[MlflowRun]:
        """Open a run (or reopen ``run_id``); it ends as failed if the block raises.

        An interrupt (Ctrl-C) ends it as killed.
        """
        with sentences(self._uri):
            if run_id is None:
                run_id = self._create_run(name, parent_run_id)
            else:
                self._client.update_run(run_id, status="RUNNING")
        try:
            yield MlflowRun(self._client, run_id, self._uri)
        except BaseException as exc:
            status = "FAILED" if isinstance(exc, Exception) else "KILLED"
            # What went wrong inside matters more than that its end could not be recorded.
            with contextlib.suppress(TrackingError):
                # MLflow alone would try for minutes.
                self.require_answer()
                self._end(run_id, status)
            raise
        self._end(run_id, "FINISHED")

    def _create_run(self, name: str, parent_run_id: str | None) -> str:
        made = provenance()
        tags = {"code_version": str(made["code_version"])}
        # A container's user need not have a name.
        with contextlib.suppress(OSError, KeyError):
            tags["mlflow.user"] = getpass.getuser()
        if made["git_revision"]:
            tags["mlflow.source.git.commit"] = str(made["git_revision"])
        if parent_run_id is not None:
            tags["mlflow.parentRunId"] = parent_run_id
        run = self._client.create_run(self._experiment_id, run_name=name, tags=tags)
        return str(run.info.run_id)

    def _end(self, run_id: str, status: str) -> None:
        with sentences(self._uri):
            self._client.set_terminated(run_id, status=status)

    def register(
        self, name: str, *, source: str, run_id: str, tags: Mapping[str, str]
    ) -> ModelVersion:
        """Add a version of model ``name`` whose files stand at ``source``, once for each run."""
        from mlflow.exceptions import MlflowException

        with sentences(self._uri):
            for known in self._client.search_model_versions(f"run_id='{run_id}'"):
                if (known.name, known.source) == (name, _absolute(source)):
                    return _model_version(known)
            try:
                self._client.create_registered_model(name)
            except MlflowException as exc:
                if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            texts = {key: str(value) for key, value in tags.items()}
            version = self._client.create_model_version(
                name, source=_absolute(source), run_id=run_id, tags=texts
            )
        return _model_version(version)

    def version(self, name: str, version_or_alias: str) -> ModelVersion:
        """Look a version up: by number, by alias (``@champion``), or ``latest``, the newest.

        Raises:
            DataError: There is no such model, version or alias.
        """
        wanted = version_or_alias.removeprefix("@")
        with sentences(self._uri):
            if wanted == LATEST:
                found = self._newest(name)
            elif wanted.isdecimal():
                found = self._found(self._client.get_model_version, name, wanted)
            else:
                found = self._found(self._client.get_model_version_by_alias, name, wanted)
        if found is None:
            raise DataError(
                f"{self._uri}: model {name!r} has no version or alias {wanted!r}; {self._has(name)}"
            )
        return _model_version(found)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point ``alias`` to ``version``."""
        with sentences(self._uri):
            self._client.set_registered_model_alias(name, alias, version)

    def set_version_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Tag a version."""
        with sentences(self._uri):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, str(value))

    def _newest(self, name: str) -> Any:
        model = self._found(self._client.get_registered_model, name)
        # MLflow gives the newest of each of its old "stages"; the newest of all is among them.
        versions = model.latest_versions if model is not None else []
        return max(versions, key=lambda version: int(version.version), default=None)

    def _found(self, look_up: Any, *wanted: str) -> Any:
        """What ``look_up`` finds, ``None`` where there is nothing."""
        from mlflow.exceptions import MlflowException

        try:
            return look_up(*wanted)
        except MlflowException as exc:
            # An unknown alias of a known model counts as an invalid value in MLflow.
            if exc.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _has(self, name: str) -> str:
        """A remedy: what there is of model ``name``."""
        with sentences(self._uri):
            newest = self._newest(name)
            if newest is None:
                return "no such model is registered, train and register one or correct the name."
            aliases = sorted(self._client.get_registered_model(name).aliases)
        known = f"aliases: {', '.join(aliases)}" if aliases else "no alias yet"
        return f"there are versions up to {newest.version} ({known})."


def _client(uri: str) -> Any:
    """An ``MlflowClient`` for ``uri``, with MLflow's progress messages silenced."""
    # Read while MLflow is imported, so it must be set before.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Seven by default, which takes four minutes; whoever can wait tries again in a better place.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient

    for name, level in (
        ("mlflow", logging.WARNING),
        # It prints a traceback of its own for each error that it also raises.
        ("mlflow.store.db", logging.CRITICAL),
        ("alembic", logging.WARNING),
    ):
        logging.getLogger(name).setLevel(level)
    with sentences(redacted(uri)):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _model_version(version: Any) -> ModelVersion:
    return ModelVersion(
        name=str(version.name),
        version=str(version.version),
        source=str(version.source),
        run_id=version.run_id or None,
        tags=dict(version.tags),
    )


def _absolute(uri: str) -> str:
    """Local paths made absolute: whoever reads them stands in another folder."""
    return uri if "://" in uri else str(Path(uri).absolute())


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield _key(f"{prefix}{name}"), str(value)


def _key(name: str) -> str:
    """``name`` in the alphabet and the length that MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:_MAX_KEY_CHARS]
