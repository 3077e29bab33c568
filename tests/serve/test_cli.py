import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aligner.runtime_env import free_port
from aligner_serve import keys

CONFIG = """
base_url: http://127.0.0.1:9/v1
upstreams: {up: {}}
aligners:
  fixer: {source: {kind: path, uri: nowhere}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "graph.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aligner_serve.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence on stderr, with exit code 2 and no traceback."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_port_in_use_is_told_before_anything_starts(config: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve("--config", str(config), "--port", str(port))
    message = refused(done)
    assert f"port {port}" in message and "--port" in message


def test_a_host_that_is_not_ours_is_told(config: Path, tmp_path: Path) -> None:
    keys.write(tmp_path / "keys.yaml", [])
    settings = ("host=192.0.2.1", f"access.keys={tmp_path / 'keys.yaml'}")
    options = [word for setting in settings for word in ("--set", setting)]
    assert "'192.0.2.1', port 8000: cannot be" in refused(serve("--config", str(config), *options))


def test_a_port_for_others_is_not_opened_without_keys(config: Path, tmp_path: Path) -> None:
    message = refused(serve("--config", str(config), "--set", "host=0.0.0.0"))
    assert "access.keys" in message and "aligner keys new" in message
    missing = tmp_path / "none.yaml"
    options = ("--set", "host=0.0.0.0", "--set", f"access.keys={missing}")
    assert str(missing) in refused(serve("--config", str(config), *options))


def test_a_typo_is_told_with_the_key_that_was_meant(config: Path) -> None:
    message = refused(serve("--config", str(config), "--set", "aligners.fixer.tiemout_s=5"))
    assert "tiemout_s" in message and "timeout_s" in message


def test_a_missing_export_is_told_before_ray_starts(config: Path) -> None:
    message = refused(serve("--config", str(config), "--set", f"port={free_port()}"))
    assert "nowhere" in message


def test_a_ready_file_that_cannot_be_written_is_told_at_once(config: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "missing" / "ready.json")
    message = refused(
        serve("--config", str(config), "--port", str(free_port()), "--ready-file", place)
    )
    assert "--ready-file" in message


def test_help_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys; from aligner_serve.cli import serve;"
        "from click.testing import CliRunner; r = CliRunner().invoke(serve, ['--help']);"
        "assert '--ready-file' in r.output, r.output;"
        "print([m for m in ('ray', 'torch', 'fastapi', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
