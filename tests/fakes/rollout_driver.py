"""Rolls versions out in a real Ray Serve, with processes that only say which one they are.

Ray reads its settings while it is imported, so it runs in a process of its own and prints as JSON
what it has seen. ``test_runtime.py`` says what that should be.
"""

import json
import os
import threading
import time
from typing import Any

import httpx

from aligner.errors import GateRefused
from aligner.runtime_env import free_port, set_ray_defaults
from aligner_serve.config.graph import GraphConfig
from aligner_serve.release import Release
from aligner_serve.rollout import Releases

set_ray_defaults()

from ray import serve  # noqa: E402 - the settings come first

from aligner_serve import app, runtime  # noqa: E402 - the settings come first

SEAT = "fixer"
_PATIENCE_S = 180


class Says:
    """Stands for a corrector: slow to start, and unfit where its version is bad."""

    def __init__(self, version: str) -> None:
        time.sleep(0.5)
        if "bad" in version:
            raise GateRefused(f"{version}: passed 0 of 3 pairs; make a better version.")
        self._version = version

    async def __call__(self) -> dict[str, Any]:
        return {"version": self._version, "pid": os.getpid()}


class Gateway:
    """Stands for the gateway."""

    def __init__(self, corrector: Any) -> None:
        self._corrector = corrector

    async def __call__(self, request: Any) -> dict[str, Any]:
        return {"gateway": os.getpid(), **await self._corrector.remote()}


class Graph:
    """A graph, and somebody who asks it all the time while it is changed."""

    def __init__(self, config: GraphConfig) -> None:
        self._config = config
        self._stopped = False
        self._cluster = runtime.Cluster(
            self._build, timeout_s=_PATIENCE_S, stopped=lambda: self._stopped
        )

    def ask(self) -> dict[str, Any]:
        # Reading the certificates that are not needed here would take most of the time.
        reply = httpx.get(self._config.url, timeout=60, trust_env=False, verify=False)
        said: dict[str, Any] = reply.raise_for_status().json()
        return said

    def deploy(self, version: str) -> dict[str, Any]:
        """Who answers when it is done, or why it was not; and what befell others meanwhile."""
        asked, failures, over = 0, list[str](), threading.Event()

        def ask_on() -> None:
            nonlocal asked
            while not over.is_set():
                asked += 1
                try:
                    self.ask()
                except httpx.HTTPError as exc:
                    failures.append(repr(exc))
                time.sleep(0.01)

        others = threading.Thread(target=ask_on)
        others.start()
        refused = None
        try:
            self._cluster.deploy(released(version))
        except runtime.GraphFailed as exc:
            refused = str(exc)
        over.set()
        others.join()
        return {**self.ask(), "refused": refused, "asked": asked, "failures": failures}

    def stop_in_the_middle(self, version: str) -> bool:
        """Whether a rollout ends at once when the program is asked to stop."""
        self._stopped = True
        try:
            self._cluster.deploy(released(version))
        except KeyboardInterrupt:
            return True
        finally:
            self._stopped = False
        return False

    def _build(self, releases: Releases) -> Any:
        release = releases[SEAT]
        options = app._options(self._config, self._config.gateway)
        corrector = app._pinned(
            serve.deployment(name="corrector", **options)(Says), release.model_dump()
        ).bind(release.version)
        gateway = serve.deployment(name="gateway", **options)(Gateway)
        return app._pinned(gateway, "gateway").bind(corrector)


def released(version: str) -> dict[str, Release]:
    return {
        SEAT: Release(version=version, uri="", content_hash=version, prompt_fingerprint="f" * 12)
    }


def main() -> None:
    config = GraphConfig.model_validate(
        {
            "port": free_port(),
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"up": {}},
            "aligners": {SEAT: {"source": {"kind": "path", "uri": "nowhere"}}},
            "gateway": {"num_cpus": 0.1},
            "shutdown_timeout_s": 5,
        }
    )
    with runtime.ray_and_serve(config):
        graph = Graph(config)
        runtime.Cluster(graph._build, timeout_s=_PATIENCE_S).deploy(released("1"))
        seen = {"first": graph.ask()}
        for name, version in {"same": "1", "next": "2", "bad": "bad", "back": "2"}.items():
            seen[name] = graph.deploy(version)
        killer = threading.Timer(0.3, os.kill, (seen["back"]["pid"], 9))
        killer.start()
        seen["killed"] = graph.deploy("3")
        killer.join()
        seen["stopped"] = {"at_once": graph.stop_in_the_middle("4")}
        seen["after"] = graph.deploy("3")
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
