"""Versions with and without a calibration of KEEP behind an alias; nothing is deployed.

``test_rollout.py`` has what goes for every version.
"""

from pathlib import Path

import keep_reports
import pytest
import weightless_exports

from aligner.adapters.memory_tracker import MemoryTracker
from aligner.exports import FINGERPRINT_TAG, HASH_TAG
from aligner.keeping import KEEP_TAG
from aligner.manifest import Manifest
from aligner_serve import release
from aligner_serve.config.graph import GraphConfig
from aligner_serve.rollout import Releases, Rollout

SEAT = "fixer"


def calibration(manifest: Manifest, **changes: object) -> str:
    """As a version carries it."""
    found = keep_reports.calibration(manifest, threshold=-0.5)
    return found.model_copy(update=changes).to_tag()


class Cluster:
    """Starts whatever it is given."""

    def __init__(self) -> None:
        self.aims: list[Releases] = []

    def deploy(self, releases: Releases) -> None:
        self.aims.append(releases)


class Graph:
    """An aligner that keeps answers, served by the version that ``@champion`` names."""

    def __init__(self, folder: Path) -> None:
        self.tracker, self.cluster = MemoryTracker(), Cluster()
        self.said: list[str] = []
        self.told: list[tuple[str, str, str]] = []
        uris = [str(folder / name) for name in ("first", "second")]
        self.manifests = [weightless_exports.write_export(uri) for uri in uris]
        for number, (uri, manifest) in enumerate(zip(uris, self.manifests, strict=True), 1):
            tags = {
                HASH_TAG: manifest.content_hash,
                FINGERPRINT_TAG: manifest.prompt_fingerprint,
            }
            self.tracker.register("m", source=uri, run_id=f"r{number}", tags=tags)
        self.tag("1", calibration(self.manifests[0]))
        self.tracker.set_alias("m", "champion", "1")
        config = GraphConfig.model_validate(
            {
                "base_url": "http://127.0.0.1:9/v1",
                "upstreams": {"up": {}},
                "aligners": {SEAT: {"source": {"kind": "registry", "model": "m"}, "keep": {}}},
            }
        )
        registry = release.Registry(config, tracker=self.tracker)
        self.rollout = Rollout(
            registry.resolve_all(),
            watched=config.watched,
            registry=registry,
            cluster=self.cluster,
            say=self.said.append,
            told=lambda *one: self.told.append(one),
        )

    def tag(self, version: str, text: str) -> None:
        self.tracker.set_version_tags("m", version, {KEEP_TAG: text})

    @property
    def serving(self) -> release.Release:
        return self.rollout.serving[SEAT]


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph(tmp_path)


@pytest.mark.parametrize(
    ("carried", "error", "says"),
    [
        (None, "ConfigError", "models:/m/2 carries no calibration; run `aligner evaluate`"),
        ({"export_hash": "b" * 64}, "ContractMismatch", "is of export bbbbbbbbbbbb"),
        ({"prompt_fingerprint": "c" * 12}, "ContractMismatch", "with prompt cccccccccccc"),
        ({"dtype": "float32"}, "ContractMismatch", "set engine.dtype=float32, or evaluate"),
        ({"threshold": None}, "DataError", "models:/m/2: the calibration of KEEP found no"),
    ],
    ids=[
        "none",
        "of another export",
        "of another prompt",
        "in another dtype",
        "without a threshold",
    ],
)
def test_a_version_that_cannot_keep_is_refused_and_the_old_one_goes_on(
    graph: Graph, carried: dict[str, object] | None, error: str, says: str
) -> None:
    if carried is not None:
        graph.tag("2", calibration(graph.manifests[1], **carried))
    graph.tracker.set_alias("m", "champion", "2")
    assert [graph.rollout.look() for _ in range(3)] == [False] * 3
    assert (graph.serving.version, graph.cluster.aims) == ("models:/m/1", [])
    (sentence,) = graph.said
    assert sentence.startswith(f"{SEAT}: models:/m/1 stays: ") and says in sentence
    assert graph.told == [(SEAT, "refused", error)]
    # It is looked at again, for a calibration needs no new version.
    graph.tag("2", calibration(graph.manifests[1]))
    assert graph.rollout.look()
    assert graph.serving.version == "models:/m/2"
    assert graph.told[1:] == [(SEAT, "served", "")]


def test_a_version_that_is_calibrated_anew_is_rolled_out_again(graph: Graph) -> None:
    assert not graph.rollout.look()
    graph.tag("1", calibration(graph.manifests[0], threshold=-0.25))
    assert graph.rollout.look()
    (aim,) = graph.cluster.aims
    assert aim[SEAT] == graph.serving
    assert graph.serving.keep is not None and graph.serving.keep.threshold == -0.25
    assert not graph.rollout.look()


def test_a_calibration_that_is_lost_changes_nothing_that_runs(graph: Graph) -> None:
    graph.tag("1", "{")
    assert not graph.rollout.look()
    assert graph.serving.keep is not None and graph.cluster.aims == []
    assert graph.told == [(SEAT, "refused", "DataError")]
