"""Models and tokenizers by path or by their id on the hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aligner.errors import DataError

_HUB_ID: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def local_folder(
    path: str, *, key: str, patterns: Sequence[str], revision: str | None = None
) -> Path:
    """Where ``path`` lies on this machine; of a hub id the files of ``patterns`` are fetched.

    Raises:
        DataError: There is no such folder and no such model to be had; ``key`` is the setting
            that named it.
    """
    if (folder := Path(path)).is_dir():
        return folder
    if not _HUB_ID.fullmatch(path):
        raise DataError(f"{key}={path}: there is no such folder; check the path.")
    # Only a hub id needs the hub's client.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(patterns)))
    except (OSError, ValueError) as exc:
        reason = type(exc).__name__
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise DataError(
            f"{key}={path}: is no folder here, and the hub gave nothing: "
            f"{reason}{offline}; check the path."
        ) from None
