"""Who asks: the holder of a key, or anybody where no key is asked for."""

import logging
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Protocol

from aligner.errors import ConfigError
from aligner_serve import keys
from aligner_serve.config.access import AccessConfig
from aligner_serve.quotas import Limits

_LOGGER: Final = logging.getLogger("ray.serve.aligner")
_LOOK_S: Final = 1.0
"""How long a key that was revoked may still be good."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may ask for."""

    name: str = ""
    """Of the key; empty without one."""

    models: tuple[str, ...] = ("*",)
    """Patterns of the names that may be asked for."""

    limits: Limits = field(default_factory=Limits)

    def may_use(self, model: str) -> bool:
        """Whether ``model``, or an aligner of this name, may be asked for."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


ANYBODY: Final = Caller()


class Callers(Protocol):
    """Knows who holds which key."""

    @property
    def need_keys(self) -> bool:
        """Whether a key is asked for at all."""

    def find(self, secret: str | None) -> Caller | None:
        """Who holds the key ``secret``; nobody, where it is none of ours."""


class Keyless:
    """Everybody is the same caller."""

    need_keys = False

    def __init__(self, config: AccessConfig) -> None:
        """``config`` has limits for all together."""
        limits = Limits(config.requests_per_minute, config.tokens_per_minute)
        self._caller = Caller(limits=limits)

    def find(self, secret: str | None) -> Caller | None:
        """Anybody; a key that is brought is not looked at."""
        return self._caller


class Keyring:
    """The holders of the keys in a file, which is read again when it changes."""

    need_keys = True

    def __init__(self, path: Path, config: AccessConfig, *, look_s: float = _LOOK_S) -> None:
        """``config`` has the limits of keys that have none of their own.

        The file is looked at every ``look_s``.

        Raises:
            ConfigError: The file is missing, or holds no keys.
        """
        self._path = path
        self._config = config
        self._look_s = look_s
        self._keys = keys.read(path)
        self._seen = self._state()
        self._looked_at = time.monotonic()

    def find(self, secret: str | None) -> Caller | None:
        """Who holds the key ``secret``."""
        self._look()
        key = None if secret is None else self._keys.find(secret)
        if key is None:
            return None
        limits = Limits(
            key.requests_per_minute or self._config.requests_per_minute,
            key.tokens_per_minute or self._config.tokens_per_minute,
        )
        return Caller(key.name, key.models, limits)

    def _look(self) -> None:
        """Read the file again where it has changed; a broken one changes nothing."""
        if time.monotonic() - self._looked_at < self._look_s:
            return
        self._looked_at = time.monotonic()
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = keys.read(self._path)
        except ConfigError as exc:
            _LOGGER.warning("the keys stay as they were: %s", exc)

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def callers_of(config: AccessConfig) -> Callers:
    """Those whom ``config`` lets in.

    Raises:
        ConfigError: Its file of keys is missing, or holds none.
    """
    return Keyless(config) if config.keys is None else Keyring(Path(config.keys), config)
