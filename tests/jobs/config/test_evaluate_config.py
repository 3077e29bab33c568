from typing import Any

import pytest

from aligner.config import validate
from aligner.errors import ConfigError
from aligner_jobs.config.evaluate import EvaluateConfig
from aligner_jobs.config.keeping import CalibrateKeep, StoredKeep


def raw(**changes: Any) -> dict[str, Any]:
    given = {
        "out": "report",
        "model": "m",
        "upstreams": {"iron": {"model": "iron", "base_url": "http://127.0.0.1:1/v1"}},
        "questions": {"kind": "simworld"},
        "judge": {"kind": "simworld"},
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


def config(**changes: Any) -> EvaluateConfig:
    return validate(EvaluateConfig, raw(**changes), where="test.yaml")


@pytest.mark.parametrize(
    ("model", "name", "version"),
    [
        ("simworld-aligner", "simworld-aligner", "latest"),
        ("simworld-aligner@candidate", "simworld-aligner", "@candidate"),
        ("simworld-aligner/3", "simworld-aligner", "3"),
        ("team/aligner", "team/aligner", "latest"),
        ("team/aligner/12", "team/aligner", "12"),
        ("me@home@champion", "me@home", "@champion"),
    ],
)
def test_a_model_is_named_with_or_without_its_version(model: str, name: str, version: str) -> None:
    given = config(model=model)
    assert (given.model_name, given.model_version) == (name, version)


def test_a_model_and_an_export_exclude_each_other() -> None:
    assert config(model=None, export="folder").export == "folder"
    for wrong in ({"export": "folder"}, {"model": None}):
        with pytest.raises(ConfigError, match="set one of the two"):
            config(**wrong)


def test_the_common_address_fills_in_where_an_upstream_has_none() -> None:
    upstreams = {"a": {"model": "a"}, "b": {"model": "b", "base_url": "http://b:1/v1"}}
    given = config(upstreams=upstreams, base_url="http://common:1/v1")
    assert given.upstreams["a"].base_url == "http://common:1/v1"
    assert given.upstreams["b"].base_url == "http://b:1/v1"


def test_an_upstream_without_any_address_is_named() -> None:
    with pytest.raises(ConfigError, match=r"upstreams\.a\.base_url' is missing"):
        config(upstreams={"a": {"model": "a"}})


def test_at_least_one_upstream_is_needed() -> None:
    with pytest.raises(ConfigError, match="upstreams"):
        config(upstreams={})


def test_room_grows_with_the_answer_but_never_falls_below_its_floor() -> None:
    given = config(min_room_tokens=100, max_growth_ratio=1.5)
    assert given.room_tokens(answer=3) == 100
    assert given.room_tokens(answer=201) == 303


def test_samples_are_counted() -> None:
    endpoint = {"model": "a", "base_url": "http://a:1/v1"}
    upstreams = {"a": {**endpoint, "samples_per_question": 3}, "b": endpoint}
    assert config(upstreams=upstreams).rows_per_question == 4


def test_keep_looks_for_a_threshold_unless_it_is_to_use_one() -> None:
    assert config(keep={}).keep == CalibrateKeep(wanted_error=0.005, confidence=0.95)
    assert config(keep={"kind": "stored"}).keep == StoredKeep(kind="stored")
    assert config().keep is None
