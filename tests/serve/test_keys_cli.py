import stat
from pathlib import Path

from click.testing import CliRunner, Result

from aligner_serve import keys as files
from aligner_serve.keys_cli import keys


def run(path: Path, *arguments: str) -> Result:
    command, *others = arguments
    return CliRunner().invoke(keys, [command, "--file", str(path), *others])


def refused(done: Result) -> str:
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_new_key_is_printed_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    secret = run(path, "new", "--name", "ann", "--models", "*+a").stdout.strip()
    text = path.read_text(encoding="utf-8")
    assert secret.startswith("sk-aligner-") and len(secret) > 50
    assert secret not in text and files.hash_of(secret) in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = files.read(path).find(secret)
    assert found is not None and (found.name, found.models) == ("ann", ("*+a",))


def test_keys_are_listed_without_their_hashes(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    run(path, "new", "--name", "ann", "--requests-per-minute", "60", "--expires", "2030-01-02")
    run(path, "new", "--name", "bob")
    listed = run(path, "list").stdout.splitlines()
    assert listed == ["ann  models *  requests/min 60  expires 2030-01-02", "bob  models *"]
    assert not any(key.sha256 in "".join(listed) for key in files.read(path).keys)


def test_a_revoked_key_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    secret = run(path, "new", "--name", "ann").stdout.strip()
    assert run(path, "revoke", "ann").exit_code == 0
    assert files.read(path).find(secret) is None
    assert "ann" in refused(run(path, "revoke", "ann"))


def test_mistakes_are_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    run(path, "new", "--name", "ann")
    assert "revoke it first" in refused(run(path, "new", "--name", "ann"))
    assert "no name" in refused(run(path, "new", "--name", "a b"))
    assert "requests_per_minute" in refused(
        run(path, "new", "--name", "x", "--requests-per-minute", "0")
    )
    assert "expires" in refused(run(path, "new", "--name", "x", "--expires", "soon"))
    assert "cannot be read" in refused(run(tmp_path / "none.yaml", "list"))
    assert "cannot be written" in refused(run(tmp_path / "no" / "k.yaml", "new", "--name", "x"))
    assert [key.name for key in files.read(path).keys] == ["ann"]
