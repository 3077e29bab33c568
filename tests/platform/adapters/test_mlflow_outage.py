"""A real MLflow server, killed and started again: at the start, in the middle, at the end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from aligner.adapters.mlflow_tracker import MlflowTracker
from aligner.lasting_run import lasting_run, patiently
from aligner.runtime_env import free_port
from aligner.tracking import TrackingConfig

STEPS = range(1, 201)
_PATIENCE_S = 200.0


class Server:
    """``mlflow server`` as a person starts it, on a folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is up after some seconds."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        ]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        pytest.fail("the MLflow server did not come up in time")

    def kill(self) -> None:
        """End it and its workers at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=20)
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that is not started yet."""
    server = Server(tmp_path)
    try:
        yield server
    finally:
        server.kill()


@pytest.mark.e2e
def test_a_server_that_is_killed_three_times_has_everything_once_and_in_order(
    server: Server, tmp_path: Path
) -> None:
    said: list[str] = []
    page = tmp_path / "page.html"
    page.write_text("<p>first</p>")
    config = TrackingConfig(uri=server.uri)
    late = threading.Timer(1.0, server.start)
    late.start()
    try:
        tracker = patiently(
            lambda: MlflowTracker(config), None, patience_s=_PATIENCE_S, tell=said.append
        )
    finally:
        late.join()
    assert "Waiting for it" in said[0]

    with lasting_run(
        tracker, "test", outbox=tmp_path / "outbox", patience_s=_PATIENCE_S, tell=said.append
    ) as run:
        for step in STEPS:
            if step in (50, 150):
                server.kill()
            if step == 100:
                server.start()
                server.wait()
                time.sleep(1.1)
            run.log_metrics({"loss": 1 / step, "rate": 0.5}, step=step)
            if step == 60:
                run.log_table("samples/at-60", [{"answer": "No.", "same": 1.0}])
                run.log_artifact(page)
                run.set_tags({"job": "train"})
                page.write_text("<p>second</p>")
        assert run.waiting
        server.start()

    client = MlflowClient(tracking_uri=server.uri)
    history = client.get_metric_history(run.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, 1 / step) for step in STEPS]
    times = [one.timestamp for one in history]
    assert times == sorted(times)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["job"] == "train"
    downloaded = Path(client.download_artifacts(run.run_id, "page.html", str(tmp_path)))
    assert downloaded.read_text() == "<p>first</p>"
    table = Path(client.download_artifacts(run.run_id, "samples/at-60.json", str(tmp_path)))
    assert json.loads(table.read_text())["data"] == [["No.", 1.0]]
    assert not (tmp_path / "outbox").exists()
