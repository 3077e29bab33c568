"""Following an alias, over a registry and a cluster that are told what to do."""

import pytest

from aligner.errors import AlignerError, DataError, GateRefused, TrackingAway
from aligner_serve.release import Release
from aligner_serve.rollout import Releases, Rollout


def version(number: int) -> Release:
    return Release(
        version=f"models:/fixer/{number}",
        uri=f"exports/{number}",
        content_hash=f"{number}" * 64,
        prompt_fingerprint="f" * 12,
    )


class Registry:
    """Its alias names what it is told to, or nothing."""

    def __init__(self) -> None:
        self.alias: dict[str, Release | AlignerError] = {}
        self.damaged: set[str] = set()
        self.fetched: list[str] = []

    def resolve(self, seat: str) -> Release:
        found = self.alias[seat]
        if isinstance(found, AlignerError):
            raise found
        return found

    def fetch(self, seat: str, release: Release) -> None:
        self.fetched.append(release.version)
        if release.version in self.damaged:
            raise DataError(f"{release.uri}: model.safetensors differs; restore it.")


class Cluster:
    """Starts every version but the bad ones."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.aims: list[dict[str, str]] = []

    def deploy(self, releases: Releases) -> None:
        self.aims.append({seat: release.version for seat, release in releases.items()})
        for release in releases.values():
            if release.version in self.bad:
                raise GateRefused(f"{release.version}: passed 0 of 3 pairs; make a better one.")


class Graph:
    """A rollout with all that is around it."""

    def __init__(self, *seats: str) -> None:
        self.registry, self.cluster = Registry(), Cluster()
        self.said: list[str] = []
        self.told: list[tuple[str, str, str]] = []
        self.registry.alias = {seat: version(1) for seat in seats}
        self.rollout = Rollout(
            {seat: version(1) for seat in seats},
            watched=seats,
            registry=self.registry,
            cluster=self.cluster,
            say=self.said.append,
            told=lambda *one: self.told.append(one),
        )

    def look(self, *, times: int = 1) -> bool:
        moved = [self.rollout.look() for _ in range(times)]
        return any(moved)

    @property
    def serving(self) -> list[str]:
        return [release.version for release in self.rollout.serving.values()]


@pytest.fixture
def graph() -> Graph:
    return Graph("a", "b")


def test_an_alias_that_stays_disturbs_nobody(graph: Graph) -> None:
    assert not graph.look(times=3)
    assert (graph.cluster.aims, graph.registry.fetched, graph.said) == ([], [], [])


def test_a_moved_alias_is_fetched_and_rolled_out_once(graph: Graph) -> None:
    graph.registry.alias["b"] = version(2)
    assert graph.look()
    assert graph.serving == ["models:/fixer/1", "models:/fixer/2"]
    assert not graph.look(times=2)
    assert graph.registry.fetched == ["models:/fixer/2"]
    assert graph.cluster.aims == [{"a": "models:/fixer/1", "b": "models:/fixer/2"}]
    assert graph.said[-1] == "b: models:/fixer/2 corrects now"
    assert graph.told == [("b", "served", "")]


def test_moving_it_back_is_a_rollout_like_any_other(graph: Graph) -> None:
    for number in (2, 1):
        graph.registry.alias["a"] = version(number)
        assert graph.look()
    assert graph.serving[0] == "models:/fixer/1"


def test_a_version_that_fails_is_taken_back_said_once_and_not_tried_again(graph: Graph) -> None:
    graph.registry.alias["a"] = version(2)
    graph.cluster.bad = {"models:/fixer/2"}
    assert not graph.look(times=3)
    first, second = graph.cluster.aims
    assert (first["a"], second["a"]) == ("models:/fixer/2", "models:/fixer/1")
    (told,) = [line for line in graph.said if "taken back" in line]
    assert "passed 0 of 3 pairs" in told and "models:/fixer/1 stays" in told
    assert graph.told == [("a", "taken_back", "GateRefused")]


def test_it_is_tried_again_when_the_alias_has_been_elsewhere(graph: Graph) -> None:
    graph.cluster.bad = {"models:/fixer/2"}
    for number in (2, 1, 2):
        graph.registry.alias["a"] = version(number)
        graph.look()
    assert [aim["a"][-1] for aim in graph.cluster.aims] == ["2", "1", "2", "1"]
    graph.cluster.bad = set()
    for number in (3, 2):
        graph.registry.alias["a"] = version(number)
        assert graph.look()


def test_files_that_cannot_be_had_never_reach_the_cluster(graph: Graph) -> None:
    graph.registry.alias["a"] = version(2)
    graph.registry.damaged = {"models:/fixer/2"}
    assert not graph.look(times=30)
    assert graph.cluster.aims == []
    assert len(graph.said) == 1 and "models:/fixer/1 stays" in graph.said[0]
    assert graph.told == [("a", "refused", "DataError")]
    # They are large: each time it waits twice as long.
    assert len(graph.registry.fetched) == 4


def test_files_that_are_there_again_are_rolled_out(graph: Graph) -> None:
    graph.registry.alias["a"] = version(2)
    graph.registry.damaged = {"models:/fixer/2"}
    graph.look(times=2)
    graph.registry.damaged = set()
    assert graph.look(times=2)
    assert graph.serving[0] == "models:/fixer/2"


def test_one_bad_version_does_not_keep_another_aligner_back(graph: Graph) -> None:
    graph.registry.alias = {"a": version(2), "b": version(3)}
    graph.cluster.bad = {"models:/fixer/2"}
    assert graph.look()
    assert graph.serving == ["models:/fixer/1", "models:/fixer/3"]


def test_a_registry_that_is_away_costs_one_sentence(graph: Graph) -> None:
    graph.registry.alias["a"] = TrackingAway("http://mlflow:5000: nobody answers; start it.")
    assert not graph.look(times=3)
    (told,) = graph.said
    assert "models:/fixer/1 stays" in told and "nobody answers" in told
    graph.registry.alias["a"] = version(2)
    assert graph.look()


def test_what_does_not_come_back_is_tried_again_and_said_once(graph: Graph) -> None:
    graph.registry.alias["a"] = version(2)
    graph.cluster.bad = {"models:/fixer/1", "models:/fixer/2"}
    graph.look(times=3)
    assert [aim["a"][-1] for aim in graph.cluster.aims] == ["2", "1", "1", "1"]
    assert len([line for line in graph.said if "does not come back" in line]) == 1
    graph.cluster.bad = set()
    graph.look(times=2)
    assert [aim["a"][-1] for aim in graph.cluster.aims] == ["2", "1", "1", "1", "1"]
