import logging
from pathlib import Path

import pytest

from aligner_serve import keys
from aligner_serve.callers import Keyring
from aligner_serve.config.access import AccessConfig
from aligner_serve.keys import Key
from aligner_serve.quotas import Limits


def key(name: str, **settings: int) -> tuple[str, Key]:
    secret = keys.new_secret()
    return secret, Key(name=name, sha256=keys.hash_of(secret), **settings)


def test_keys_come_and_go_while_it_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.yaml"
    (first, one), (second, two) = key("first"), key("second")
    keys.write(path, [one])
    ring = Keyring(path, AccessConfig(), look_s=0.0)

    def names() -> list[str | None]:
        found = (ring.find(secret) for secret in (first, second))
        return [None if caller is None else caller.name for caller in found]

    assert names() == ["first", None]
    keys.write(path, [one, two])
    assert names() == ["first", "second"]
    keys.write(path, [two])
    assert names() == [None, "second"]
    with caplog.at_level(logging.WARNING):
        path.write_text("keys: [broken", encoding="utf-8")
        assert names() == [None, "second"]
        path.unlink()
        assert names() == [None, "second"]
    assert len(caplog.records) == 2
    assert all("the keys stay as they were" in record.message for record in caplog.records)


def test_a_keys_own_limits_go_before_those_of_all(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    (plain, one), (special, two) = key("plain"), key("special", requests_per_minute=9)
    keys.write(path, [one, two])
    ring = Keyring(path, AccessConfig(requests_per_minute=5, tokens_per_minute=50))
    limits = {caller.name: caller.limits for s in (plain, special) if (caller := ring.find(s))}
    assert limits == {"plain": Limits(5, 50), "special": Limits(9, 50)}
