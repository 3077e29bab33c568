"""A graph that is asked all the time while its alias moves, a bad version comes, a process dies.

The small brother of ``tests/bench/soak_serve.py``.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from serve_load import Load
from serving import Serving, point, register

from aligner import artefacts
from aligner.adapters.simworld_http import SimworldServer
from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner.records import to_columns
from aligner.runtime_env import free_port
from aligner.tracking import TrackingConfig

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    place = tmp_path_factory.mktemp("registry") / "mlflow.db"
    return TrackingConfig(uri=f"sqlite:///{place}", experiment="serve")


@pytest.fixture(scope="module")
def serving(
    known_export: Any, tracking: TrackingConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """Versions 1 and 2 know their corrections, version 3 cannot be loaded."""
    folder = tmp_path_factory.mktemp("following")
    good = (known_export.uri, known_export.manifest)
    for uri, manifest in (good, good, unusable(str(folder / "unusable"))):
        register(uri, manifest, tracking)
    point("champion", "1", tracking)
    golden = [to_columns(row) for row in (known_export.corrected, known_export.multi_turn)]
    (folder / "golden.jsonl").write_text("\n".join(json.dumps(row) for row in golden))
    with SimworldServer(seed=known_export.seed) as simworld:
        config = {
            "port": free_port(),
            "base_url": simworld.base_url,
            "upstreams": {"iron": {"sampling": {"temperature": 0.0, "seed": 0}, "scaling": {}}},
            "aligners": {
                "known": {
                    "source": {"kind": "registry", "model": "known"},
                    "engine": {"dtype": "float32"},
                    "probe": {"pairs": str(folder / "golden.jsonl"), "min_similarity": 1.0},
                }
            },
            "gateway": {"min_replicas": 2, "max_replicas": 2},
            "watch_s": 0.5,
            "tracking": tracking.model_dump(),
        }
        with Serving(folder, config) as serving:
            yield serving


def unusable(uri: str) -> tuple[str, Manifest]:
    """An export that is whole as files go, and that no replica can start with."""
    with artefacts.staging(uri) as staging:
        (staging.path / "config.json").write_text('{"max_position_embeddings": 512}')
        (staging.path / "tokenizer.json").write_text("{}")
        fingerprint = PLAIN.fingerprint
        manifest: Manifest = staging.publish(
            kind="export", name="unusable", prompt=PLAIN, prompt_fingerprint=fingerprint
        )
    return uri, manifest


def ask_until(serving: Serving, rows: list[Any], until: Callable[[], bool]) -> Load:
    """Ask all the time; what came of it once ``until()`` has become true."""

    async def asking() -> Load:
        # With pauses: the cores belong to the engine that is to start meanwhile.
        load = Load(serving.state["url"], rows, model="iron+known", in_flight=2, pause_s=0.2)
        running = asyncio.create_task(load.run(100_000))
        await asyncio.to_thread(serving.wait, until)
        done = load.tally.done
        while load.tally.done < done + 20:
            await asyncio.sleep(0.1)
        load.end()
        await running
        return load

    return asyncio.run(asking())


def test_a_moved_alias_is_served_and_no_request_notices(
    serving: Serving, known_export: Any, tracking: TrackingConfig
) -> None:
    rows = [known_export.corrected, known_export.unchanged]
    before = {name: serving.replicas(name) for name in ("gateway", "upstream-iron")}
    point("champion", "2", tracking)
    tally = ask_until(serving, rows, lambda: "models:/known/2 corrects now" in serving.said).tally
    assert not tally.errors
    assert tally.outcomes.keys() == {"corrected", "unchanged"}
    assert tally.versions.keys() == {"models:/known/1", "models:/known/2"}
    assert (tally.leaks, tally.wrong) == (0, 0)
    assert {name: serving.replicas(name) for name in before} == before
    assert serving.state["versions"] == {"known": "models:/known/2"}


def test_a_version_that_does_not_start_is_taken_back_by_itself(
    serving: Serving, known_export: Any, tracking: TrackingConfig
) -> None:
    rows = [known_export.corrected, known_export.unchanged]
    before = serving.replicas("corrector-known")
    point("champion", "3", tracking)
    tally = ask_until(serving, rows, lambda: "taken back" in serving.said).tally
    assert not tally.errors
    assert tally.versions.keys() == {"models:/known/2"}
    assert (tally.leaks, tally.wrong) == (0, 0)
    assert serving.replicas("corrector-known") == before
    told = [line for line in serving.said.splitlines() if "taken back" in line]
    assert len(told) == 1
    assert "models:/known/3 is taken back, models:/known/2 stays" in told[0]
    assert known_export.corrected.correction not in serving.said
    # Whoever watches from elsewhere learns of it, too.
    counted = 'aligner_rollouts_total{name="known",reason="GraphFailed",result="taken_back"} 1.0'

    def is_counted() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return counted in httpx.get(f"{serving.state['url']}/metrics", timeout=60).text
        return False

    serving.wait(is_counted)


def test_a_gateway_that_is_killed_costs_at_most_what_it_had_in_flight(
    serving: Serving, known_export: Any
) -> None:
    rows = [known_export.corrected, known_export.unchanged]
    killed = serving.kill("gateway")

    def back() -> bool:
        there = serving.replicas("gateway")
        return len(there) == 2 and killed not in there

    tally = ask_until(serving, rows, back).tally
    # OpenAI's client asks again by itself.
    assert not tally.lost
    assert tally.errors.total() <= 2
    assert (tally.leaks, tally.wrong) == (0, 0)
