"""``aligner serve`` in a process of its own, with what a test needs to disturb it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from running import processes_below

from aligner.adapters.mlflow_tracker import MlflowTracker
from aligner.manifest import Manifest
from aligner.tracking import TrackingConfig

_SERVES = ("ray::ServeReplica", "ray::ProxyActor", "ray::ServeController", "VLLM::")
"""How the names of the processes begin that have to do with requests."""

_STARTS = "initialize_and_get_metadata"
"""What a replica is at that does not serve yet."""


class Serving:
    """A running graph, from entering the block to leaving it."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, patience_s: float = 600) -> None:
        """``folder`` is where it runs and writes its log; ``config`` is a raw GraphConfig."""
        self.log = folder / "serve.log"
        self._folder = folder
        self._config = config
        self._patience_s = patience_s
        self._ready = folder / "ready.json"

    def __enter__(self) -> Self:
        # JSON is YAML.
        (self._folder / "graph.yaml").write_text(json.dumps(self._config), encoding="utf-8")
        command = [sys.executable, "-m", "aligner_serve.cli", "--config", "graph.yaml"]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self._ready)],
                cwd=self._folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait(self._ready.exists)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def state(self) -> dict[str, Any]:
        """What its ready file says."""
        state: dict[str, Any] = json.loads(self._ready.read_text(encoding="utf-8"))
        return state

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self.log.read_text(encoding="utf-8")

    def wait(self, until: Any) -> None:
        """Return when ``until()`` is true; it must become so while the graph runs."""
        deadline = time.monotonic() + self._patience_s
        while not until():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.2)

    def processes(self) -> dict[int, str]:
        """Process id to name of everything that serves, engines and the command itself too."""
        found = {self.process.pid: "aligner serve"}
        for child, command in processes_below(self.process.pid).items():
            if command.startswith(_SERVES) and _STARTS not in command:
                # "ray::ServeReplica:aligner:gateway.handle_request" -> "gateway"
                found[child.pid] = command.split()[0].split(":")[-1].split(".")[0].strip()
        return found

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of a deployment's replicas."""
        return sorted(pid for pid, name in self.processes().items() if name == deployment)

    def kill(self, deployment: str) -> int:
        """End one replica as the kernel does when memory runs out; its process id."""
        pid = self.replicas(deployment)[0]
        psutil.Process(pid).send_signal(signal.SIGKILL)
        return pid

    def _end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def register(uri: str, manifest: Manifest, tracking: TrackingConfig, *, name: str = "known") -> str:
    """Register an export as the next version of ``name``, which is returned; no alias moves."""
    tracker = MlflowTracker(tracking)
    with tracker.run("train") as run:
        tags = {
            "prompt_fingerprint": manifest.prompt_fingerprint,
            "export_hash": manifest.content_hash,
        }
        return tracker.register(name, source=uri, run_id=run.run_id, tags=tags).version


def point(alias: str, version: str, tracking: TrackingConfig, *, name: str = "known") -> None:
    """Move ``alias`` to ``version``."""
    MlflowTracker(tracking).set_alias(name, alias, version)
