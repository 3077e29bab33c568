"""What a training run remembers between two starts of the same command: ``<out>/run.json``."""

import json

from aligner import artefacts
from aligner.config import StrictModel
from aligner.errors import DataError

_FILE = "run.json"


class RunState(StrictModel):
    """Written when a run begins and when it has ended."""

    run_name: str
    """From config and dataset: see :meth:`TrainConfig.run_name`."""

    run_id: str
    """In the tracking server."""

    tracking_uri: str
    """Of that server."""

    export_hash: str | None = None
    """Content hash of the export, once it stands."""

    model_name: str | None = None
    """Registered model, once it is registered."""

    model_version: str | None = None
    """Its version."""


def read_state(out: str) -> RunState | None:
    """The state at ``out``, ``None`` where no run has begun.

    Raises:
        DataError: The file is broken.
    """
    filesystem, path = artefacts.resolve(f"{out}/{_FILE}")
    try:
        with filesystem.open_input_stream(path) as stream:
            text = stream.read()
    except OSError:
        return None
    try:
        return RunState.model_validate(json.loads(text))
    except ValueError:
        raise DataError(f"{out}/{_FILE}: is broken; remove it to begin anew.") from None


def write_state(out: str, state: RunState) -> None:
    """Write ``state``, making the folder where need be.

    Raises:
        DataError: ``out`` cannot be written.
    """
    filesystem, path = artefacts.resolve(out)
    try:
        filesystem.create_dir(path, recursive=True)
        with filesystem.open_output_stream(f"{path}/{_FILE}") as stream:
            stream.write(state.model_dump_json(indent=2).encode() + b"\n")
    except OSError as exc:
        raise DataError(f"{out}: cannot be written ({exc}); choose another out.") from None
