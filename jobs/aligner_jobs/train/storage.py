"""Where a run's checkpoints are kept: a folder that all machines see, or S3."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow.fs as pafs
from ray import train as ray_train

from aligner import artefacts
from aligner.errors import DataError
from aligner_jobs.train.material import PHASES

_LIST: Final = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a run's checkpoints, beside them."""

_NAME: Final = re.compile(r"(?P<phase>[a-z]+)-(?P<step>\d{7})-[0-9a-f]{8}")

_S3_ATTEMPTS: Final = 12
"""Of one request. The pauses begin at 25 ms and double: 100 s in all, for a server that is gone for
a minute must not cost what was trained since the last checkpoint."""


class LastingS3(pafs.S3FileSystem):  # type: ignore[misc]
    """S3 that waits for a server that is away; unlike Arrow's, also in the process it is sent to.

    It holds no keys: they are found in the environment of each process.
    """

    def __init__(self, endpoint: str | None, region: str | None) -> None:
        """Of an S3-compatible server at ``endpoint``, or of Amazon's in ``region``."""
        self._made_of = (endpoint, region)
        super().__init__(
            endpoint_override=endpoint,
            region=region,
            retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=_S3_ATTEMPTS),
        )

    def __reduce__(self) -> tuple[type["LastingS3"], tuple[str | None, str | None]]:
        """By what it was made of."""
        return (LastingS3, self._made_of)


def open_storage(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem for Ray Train, and the path on it.

    Raises:
        DataError: ``uri`` cannot be opened.
    """
    filesystem, path = artefacts.resolve(uri)
    if not isinstance(filesystem, pafs.S3FileSystem):
        return filesystem, path
    return LastingS3(os.environ.get("AWS_ENDPOINT_URL"), filesystem.region), path


def forget_broken_list(filesystem: pafs.FileSystem, path: str) -> None:
    """Remove Ray Train's list at ``path`` where it would keep a run from being resumed.

    It is broken when its writer was killed, and wrong when somebody removed a checkpoint. Workers
    look at the folders themselves, so that nothing but the list is lost.
    """
    file = f"{path}/{_LIST}"
    if filesystem.get_file_info(file).type != pafs.FileType.File:
        return
    try:
        with filesystem.open_input_stream(file) as stream:
            listed = json.loads(stream.read())
        names = {one["checkpoint_dir_name"] for one in listed["checkpoint_results"]}
    except (ValueError, KeyError, TypeError):
        filesystem.delete_file(file)
        return
    if not names <= set(_folders(filesystem, path)):
        filesystem.delete_file(file)


def new_name(phase: str, step: int) -> str:
    """A folder's name that was never used, even at a step that is trained a second time."""
    return f"{place_of(phase, step)}{uuid.uuid4().hex[:8]}"


def place_of(phase: str, step: int) -> str:
    """How the names of all folders of a step begin."""
    return f"{phase}-{step:07d}-"


class Storage:
    """One run's checkpoints, as one of its workers sees them."""

    def __init__(self, filesystem: pafs.FileSystem, path: str, *, rank: int) -> None:
        """Those at ``path``, which must be there."""
        self._filesystem, self.path = filesystem, path
        self._uploaded = threading.Event()
        self._uploaded.set()
        self._problem: str | None = None
        if isinstance(filesystem, pafs.LocalFileSystem):
            # On the same disk, so that an upload only moves files.
            self.staging = Path(path) / f".part-{rank}"
        else:
            key = hashlib.sha256(path.encode()).hexdigest()[:12]
            self.staging = Path(tempfile.gettempdir()) / f"aligner-checkpoint-{key}-{rank}"

    @classmethod
    def of_this_run(cls) -> "Storage":
        """That of the run whose worker this process is."""
        context = ray_train.get_context()
        storage = context.get_storage()
        return cls(
            storage.storage_filesystem, storage.experiment_fs_path, rank=context.get_world_rank()
        )

    def names(self) -> list[str]:
        """Folders of checkpoints, the furthest first; not all of them need be whole."""
        found = [match for name in self._all() if (match := _NAME.fullmatch(name))]
        found.sort(key=lambda m: (PHASES.index(m["phase"]), int(m["step"])), reverse=True)
        return [match[0] for match in found]

    def checkpoint(self, name: str) -> ray_train.Checkpoint:
        """The one in the folder ``name``."""
        return ray_train.Checkpoint(f"{self.path}/{name}", self._filesystem)

    def prepare(self) -> Path:
        """The emptied folder for this worker's part; waits until its last upload is over.

        Raises:
            OSError: That failed, or there is no room.
        """
        self._uploaded.wait()
        if self._problem is not None:
            raise OSError(self._problem)
        shutil.rmtree(self.staging, ignore_errors=True)
        # Its parent is there, unless this machine sees another disk than the driver's.
        self.staging.mkdir()
        return self.staging

    def hand_over(
        self,
        name: str,
        metrics: Mapping[str, float],
        *,
        request: ray_train.ValidationTaskConfig | None = None,
    ) -> None:
        """Let Ray Train bring the parts of all workers into the folder ``name``, in the background.

        All workers call it together; the first one's ``name`` and ``metrics`` count. ``request``
        has Ray Train evaluate it.
        """
        self._uploaded.clear()
        ray_train.report(
            dict(metrics),
            checkpoint=ray_train.Checkpoint.from_directory(self.staging),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=ray_train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self.upload,
            delete_local_checkpoint_after_upload=False,
            validation=request or False,
        )

    def listed(self) -> set[str]:
        """Folders that Ray Train looks after; all workers call it together."""
        found = ray_train.get_all_reported_checkpoints(
            consistency_mode=ray_train.CheckpointConsistencyMode.COMMITTED
        )
        return {Path(one.checkpoint.path).name for one in found}

    def upload(self, checkpoint: Any, name: str) -> ray_train.Checkpoint:
        """Bring this worker's part into the folder ``name``; Ray Train calls it in a thread.

        Raises:
            DataError: It cannot be brought there.
        """
        target = f"{self.path}/{name}"
        try:
            bring(self.staging, self._filesystem, target)
        except OSError as exc:
            self._problem = str(exc)
            raise DataError(
                f"{target}: a checkpoint could not be written ({exc}); see to the place and run "
                "the same command again to go on from the last one."
            ) from None
        finally:
            self._uploaded.set()
        return self.checkpoint(name)

    def sweep(self, keep: Collection[str]) -> None:
        """Remove folders that are not in ``keep``: uploads that broke off."""
        for name in set(self.names()) - set(keep):
            # What cannot be removed now is swept by the next start.
            with contextlib.suppress(OSError):
                self._filesystem.delete_dir(f"{self.path}/{name}")

    def _all(self) -> list[str]:
        return _folders(self._filesystem, self.path)


def bring(folder: Path, filesystem: pafs.FileSystem, target: str) -> None:
    """Move the files of ``folder`` to ``target``, beside what other workers bring there."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        Path(target).mkdir(exist_ok=True)
        for file in sorted(folder.iterdir()):
            file.replace(f"{target}/{file.name}")
        folder.rmdir()
        return
    # One file after the other: Arrow's threads stumble over one another when they upload.
    pafs.copy_files(str(folder), target, pafs.LocalFileSystem(), filesystem, use_threads=False)
    shutil.rmtree(folder)


def _folders(filesystem: pafs.FileSystem, path: str) -> list[str]:
    selector = pafs.FileSelector(path, allow_not_found=True)
    return [
        info.base_name
        for info in filesystem.get_file_info(selector)
        if info.type == pafs.FileType.Directory
    ]
