"""API keys: a file that holds their hashes, what each may do, and how it is written and read.

A key is 256 random bits, so its plain SHA-256 tells nothing about it and cannot be searched for;
a slow password hash would add nothing but time to each request.
"""

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Self

import yaml
from pydantic import Field, model_validator

from aligner.config import StrictModel, load
from aligner.errors import ConfigError
from aligner_serve.config.names import Name

_PREFIX: Final = "sk-aligner-"
"""Lets scanners of code and logs know one when it has got lost."""

_HEAD: Final = (
    "# Hashes of API keys, written by `aligner keys`; the keys themselves are in no file.\n"
)


class Key(StrictModel):
    """One key, which is known by its hash alone."""

    name: Name
    """Who has it; in logs and metrics."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the key, in hexadecimal digits."""

    models: tuple[str, ...] = ("*",)
    """Names that may be asked for, and aligners; ``*`` stands for any text."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Unset: as ``access`` says."""

    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Unset: as ``access`` says."""

    expires: date | None = None
    """The first day on which it is good for nothing, in UTC."""

    def may_use(self, model: str) -> bool:
        """Whether it may ask for ``model``."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def is_good(self, today: date) -> bool:
        """Whether it has not expired."""
        return self.expires is None or today < self.expires


class KeyFile(StrictModel):
    """All keys."""

    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        for names in ([key.name for key in self.keys], [key.sha256 for key in self.keys]):
            if len(set(names)) < len(names):
                raise ValueError("two keys have the same name or hash; revoke one of them")
        return self

    def find(self, secret: str) -> Key | None:
        """The key that ``secret`` is, unless it has expired.

        All are compared, each in a time that does not depend on how far it is alike.
        """
        asked, found = hash_of(secret), None
        for key in self.keys:
            if hmac.compare_digest(asked, key.sha256):
                found = key
        return found if found is not None and found.is_good(datetime.now(UTC).date()) else None


def new_secret() -> str:
    """A fresh key."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """What of a key is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def read(path: Path) -> KeyFile:
    """The keys in the file at ``path``.

    Raises:
        ConfigError: There is no such file, or it holds something else.
    """
    return load(KeyFile, path)


def write(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file at ``path`` as a whole, for its owner to read alone.

    Raises:
        ConfigError: It cannot be written.
    """
    entries = [key.model_dump(mode="json", exclude_defaults=True) for key in keys]
    content = _HEAD + yaml.safe_dump({"keys": entries}, sort_keys=False)
    try:
        # mkstemp makes files of mode 0600.
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(partial, path)
    except OSError as exc:
        raise ConfigError(
            f"{path}: cannot be written ({exc.strerror or exc}); choose another file."
        ) from None
