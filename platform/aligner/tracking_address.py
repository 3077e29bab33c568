"""Where a tracking server is: looking whether anybody answers there, and telling of it safely."""

import contextlib
import re
import socket
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aligner.errors import ConfigError, TrackingAway, TrackingError

_CONNECT_TIMEOUT_S: Final = 5.0
_SQLITE_PREFIX: Final = "sqlite:///"
_SERVER_TROUBLE: Final = 500
_PASSING: Final = (
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
)
_PORTS: Final = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def redacted(uri: str) -> str:
    """``uri`` without user name and password, for messages."""
    return re.sub(r"://[^/@]*@", "://", uri)


def require_answer(uri: str) -> None:
    """Look before MLflow does: it tries for seconds before it gives up.

    Raises:
        TrackingAway: Nobody listens there, or another program holds the database.
        TrackingError: The file is no usable database.
        ConfigError: The URI is of no known kind.
    """
    if uri.startswith(_SQLITE_PREFIX):
        _require_database(Path(uri.removeprefix(_SQLITE_PREFIX)))
        return
    parts = urllib.parse.urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in _PORTS or not parts.hostname:
        raise ConfigError(
            f"tracking.uri: {redacted(uri)!r} is of no known kind; "
            "write sqlite:///file.db, http://server:5000 or postgresql://server/database."
        )
    try:
        with socket.create_connection(
            (parts.hostname, parts.port or _PORTS[scheme]), timeout=_CONNECT_TIMEOUT_S
        ):
            pass
    except OSError as exc:
        raise TrackingAway(
            f"tracking.uri: {redacted(uri)} does not answer ({exc.strerror or exc}); "
            "start the tracking server or correct the address."
        ) from None


def _require_database(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=_CONNECT_TIMEOUT_S)) as database:
            # Taking the write lock and giving it back; a reader alone would not notice a lock.
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except (sqlite3.Error, OSError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        held = isinstance(exc, sqlite3.OperationalError) and "locked" in str(exc)
        raise (TrackingAway if held else TrackingError)(
            f"tracking.uri: the database {path} cannot be used ({reason}); "
            "end the program that holds it, or choose another file."
        ) from None


@contextlib.contextmanager
def sentences(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one sentence.

    Raises:
        TrackingAway: It may work later.
        TrackingError: It will not.
    """
    try:
        yield
    except Exception as exc:
        # By module: MLflow lets its database library's errors through in some places, and that
        # library is not ours to import.
        if not type(exc).__module__.startswith(("mlflow.", "sqlalchemy.", "requests.")):
            raise
        text = str(exc).strip() or type(exc).__name__
        reason = redacted(text.splitlines()[0]).rstrip(".")[:300]
        raise (TrackingAway if _passes(exc) else TrackingError)(
            f"{uri}: the tracking server refused or failed ({reason}); "
            "check that it runs and that its version fits, then run again."
        ) from None


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed later: nobody answered, or the server was in trouble.

    MLflow gives what went wrong on the way the code of an internal error.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status >= _SERVER_TROUBLE
    return getattr(error, "error_code", _PASSING[0]) in _PASSING
