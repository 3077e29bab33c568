"""Rolling versions out in a real Ray Serve; ``tests/fakes/rollout_driver.py`` does it once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aligner_serve import runtime
from aligner_serve.config.graph import GraphConfig

DRIVER = Path(__file__).parents[1] / "fakes" / "rollout_driver.py"


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(DRIVER)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.e2e
def test_only_what_serves_another_release_is_replaced_and_nobody_notices(
    seen: dict[str, Any],
) -> None:
    first, same, then = seen["first"], seen["same"], seen["next"]
    assert (same["pid"], same["gateway"]) == (first["pid"], first["gateway"])
    assert (then["version"], then["gateway"]) == ("2", first["gateway"])
    assert then["pid"] != first["pid"]
    assert then["asked"] > 3
    assert same["failures"] == then["failures"] == []


@pytest.mark.e2e
def test_a_version_that_does_not_start_costs_nothing_but_the_attempt(seen: dict[str, Any]) -> None:
    before, bad, back = seen["next"], seen["bad"], seen["back"]
    told = bad["refused"]
    assert "corrector does not start" in told and "passed 0 of 3 pairs" in told
    assert "\n" not in told and told.endswith(".")
    assert bad["pid"] == back["pid"] == before["pid"]
    assert back["refused"] is None
    assert bad["asked"] > 3
    assert bad["failures"] == back["failures"] == []


@pytest.mark.e2e
def test_a_replica_that_dies_meanwhile_does_not_condemn_the_new_version(
    seen: dict[str, Any],
) -> None:
    assert (seen["killed"]["version"], seen["killed"]["refused"]) == ("3", None)


@pytest.mark.e2e
def test_whoever_is_asked_to_stop_does_not_wait_for_a_rollout(seen: dict[str, Any]) -> None:
    assert seen["stopped"]["at_once"]
    assert seen["after"]["version"] == "3"


def test_a_private_cluster_has_room_for_two_versions_at_once() -> None:
    scaling = {"max_replicas": 3, "num_cpus": 2}
    aligner = {"source": {"kind": "path", "uri": "nowhere"}, "scaling": scaling}
    raw = {"base_url": "http://127.0.0.1:9/v1", "upstreams": {"up": {}}}
    config = GraphConfig.model_validate({**raw, "aligners": {"a": aligner, "b": aligner}})
    assert runtime.room(config) >= 2 * 2 * 3 * 2
