"""What a running graph consists of, where parts of it may be gone before they are looked at."""

import contextlib
import os
from pathlib import Path

import psutil


def processes_below(pid: int | None = None) -> dict[psutil.Process, str]:
    """All that ``pid`` has started, by default this process; each with its command line."""
    found = {}
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found[child] = " ".join(child.cmdline())
    return found


def files_below(folder: Path) -> dict[Path, bytes]:
    """All files, whatever folder they are in; links are none."""
    found = {}
    # Unlike Path.rglob it passes over folders that are gone.
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    found[path] = path.read_bytes()
    return found
