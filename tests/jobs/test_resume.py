"""Killed at any moment and started again, a job pays for nothing twice and loses nothing."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flaky_api import Faults, FlakyApi
from killing import kill_at, replies_kept
from running import files_below

from aligner import artefacts
from aligner.manifest import Manifest
from aligner.simworld.questions import training_questions
from aligner.simworld.world import World
from aligner_jobs import programs

QUESTIONS = 600
CONFIG = Path(__file__).parents[2] / "jobs/configs/build-dataset/simworld.yaml"


def command(api: FlakyApi, out: Path) -> list[str]:
    upstream = {
        "model": "flaky",
        # None is given up because the machine is slow: each would be paid for once more.
        "timeout_s": 60.0,
        "max_attempts": 10,
        "api_key_env": "FLAKY_KEY",
        "usd_per_1m_completion_tokens": 1000.0,
    }
    settings = (
        f"out={out}",
        f"base_url={api.base_url}",
        f"sources.simworld.limit={QUESTIONS}",
        f"upstreams={json.dumps({'flaky': upstream})}",
        f"tracking.uri=sqlite:///{out.parent}/mlflow.db",
        f"tracking.artifacts={out.parent}/mlartifacts",
    )
    return programs.command("build-dataset", CONFIG, settings)


def built(api: FlakyApi, out: Path) -> Manifest:
    done = subprocess.run(command(api, out), env=ENV, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return artefacts.read_manifest(str(out), kind="dataset")


KEY = "sk-canary-8c1f"
ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(sys.path),
    "FLAKY_KEY": KEY,
}


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the Ray of a job writes; its sockets bear no longer path than this."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setitem(ENV, "RAY_TMPDIR", folder)
        yield Path(folder)


def secrets_in(folder: Path) -> list[str]:
    """Files under ``folder`` that hold the key, a question or a reply."""
    questions = training_questions(World(0), 50)
    secrets = [KEY.encode(), b"Answer ", *(one.question.encode() for one in questions)]
    texts = files_below(folder)
    assert any(path.suffix == ".log" for path in texts)
    return [str(path) for path, text in texts.items() if any(secret in text for secret in secrets)]


@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_a_killed_job_resumes_without_paying_twice(tmp_path: Path, logs: Path) -> None:
    calm = Faults(latency_s=0.1)
    with FlakyApi(calm) as api:
        whole = built(api, tmp_path / "whole")
        assert api.seen().paid == QUESTIONS
    # A malformed reply is paid for as well; it is left out so that the rest can be counted.
    faults = Faults(latency_s=0.1, share_429=0.05, share_500=0.02)
    out, paid = tmp_path / "killed", QUESTIONS // 2
    with FlakyApi(faults) as api:
        # A job that keeps replies only when it has them all is never due.
        kill_at(command(api, out), api, paid=[paid], env=ENV, due=lambda: replies_kept(out) >= 200)
        assert not out.exists()
        kept = replies_kept(out)
        resumed = built(api, out)
        seen = api.seen()
    assert resumed.content_hash == whole.content_hash
    assert seen.distinct == QUESTIONS
    # Nothing is paid for again but what had just come back and was still to be stored.
    assert seen.paid_twice == paid - kept
    ledger = resumed.facts["ledger"]["upstreams.flaky"]
    assert ledger["kept"] == kept
    assert ledger["failed"] == 0
    assert 20 * QUESTIONS <= ledger["completion_tokens"] <= 20 * seen.paid
    assert ledger["usd"] == pytest.approx(ledger["completion_tokens"] / 1000)
    assert secrets_in(logs) == []
