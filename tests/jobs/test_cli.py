"""The command line, as a user meets it: real processes, exit codes, stderr."""

import subprocess
import sys
from pathlib import Path

import pytest


def aligner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aligner_jobs.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_lists_every_command() -> None:
    done = aligner("--help")
    assert done.returncode == 0
    for name in ("build-dataset", "train", "evaluate", "promote", "cost", "serve", "quickstart"):
        assert name in done.stdout


@pytest.mark.parametrize("name", ["build-dataset", "train", "evaluate", "promote", "serve"])
def test_an_unknown_key_is_one_sentence_and_exit_code_2(name: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("surprise: 1\n")
    done = aligner(name, "--config", str(config))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert str(config) in done.stderr
    assert "'surprise' is unknown" in done.stderr
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("name", ["build-dataset", "train", "evaluate", "promote", "serve"])
def test_a_missing_config_is_one_sentence_and_exit_code_2(name: str, tmp_path: Path) -> None:
    done = aligner(name, "--config", str(tmp_path / "nowhere.yaml"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere.yaml: cannot be read" in done.stderr


def test_a_typo_of_a_command_is_a_usage_error() -> None:
    done = aligner("trian")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
