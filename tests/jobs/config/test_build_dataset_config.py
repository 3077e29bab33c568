from pathlib import Path
from typing import Any

import pytest

from aligner.config import load, validate
from aligner.errors import ConfigError
from aligner_jobs.config.build_dataset import BuildDatasetConfig

SHIPPED = sorted((Path(__file__).parents[3] / "jobs/configs/build-dataset").glob("*.yaml"))
URL = "http://127.0.0.1:8100/v1"
ASKS: dict[str, Any] = {
    "out": "o",
    "base_url": URL,
    "sources": {"s": {"kind": "simworld"}},
    "upstreams": {"u": {"model": "amber"}, "v": {"model": "basalt", "samples_per_question": 3}},
    "teacher": {"kind": "simworld"},
}
READY: dict[str, Any] = {"out": "o", "sources": {"s": {"kind": "qac", "path": "x.json"}}}
TWO: dict[str, Any] = {
    "out": "o",
    "sources": {"s": READY["sources"]["s"], "t": READY["sources"]["s"]},
}


def config(raw: dict[str, Any], **changes: object) -> BuildDatasetConfig:
    return validate(BuildDatasetConfig, {**raw, **changes}, where="test.yaml")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_the_place_of_shipped_data_is_a_setting(file: Path) -> None:
    shipped = load(BuildDatasetConfig, file)
    for name, source in shipped.sources.items():
        if source.kind != "simworld":
            moved = load(BuildDatasetConfig, file, [f"sources.{name}.path=elsewhere.jsonl"])
            assert moved.sources[name].path == "elsewhere.jsonl"  # type: ignore[union-attr]


def test_base_url_is_that_of_all_who_name_none() -> None:
    own = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    made = config(ASKS, upstreams={**ASKS["upstreams"], "w": own})
    assert made.upstreams["u"].model_dump()["base_url"] == URL
    assert made.upstreams["w"].model_dump()["base_url"] == "http://127.0.0.1:9/v1"
    over_http = {"kind": "openai", "model": "teacher"}
    assert config(ASKS, teacher=over_http).teachers["teacher"].model_dump()["base_url"] == URL
    judge = config(ASKS, judge=over_http).judge
    assert judge is not None and judge.base_url == URL


def test_a_question_may_become_upstreams_times_samples_rows() -> None:
    assert config(ASKS).rows_per_record("s") == 4
    assert config(READY).rows_per_record("s") == 1


@pytest.mark.parametrize(
    ("raw", "changes", "remedy"),
    [
        (ASKS, {"upstreams": {}}, "add upstreams"),
        (ASKS, {"teacher": None}, "add teacher"),
        (ASKS, {"base_url": None}, "upstreams.u.base_url"),
        (ASKS, {"sources": {"s": {"kind": "questions", "path": "q"}}}, "kind openai"),
        (READY, {"teacher": {"kind": "simworld"}}, "remove them"),
        (READY, {"sources": {}}, "sources"),
        (READY, {"mix": {"s": 1, "t": 1}}, "'t', which is no source; correct it"),
        (READY, {"sources": {"r": READY["sources"]["s"]}, "mix": {"s": 1}}, "'s', which is no"),
        (TWO, {"mix": {"s": 1}}, "leaves out source 't'; give it a share"),
        (TWO, {"mix": {"s": 1, "t": 0}}, "mix.t"),
        (READY, {"packing": {}}, "packing.tokenizer"),
        (READY, {"gates": {"max_copy_rat": 0.5}}, "did you mean 'max_copy_rate'"),
        (READY, {"sources": {"s": {"kind": "cvs", "path": "x"}}}, "'qac'"),
        (READY, {"sources": {"s": {"kind": "qac", "pth": "x"}}}, "did you mean 'path'"),
    ],
)
def test_settings_that_do_not_fit_name_the_remedy(
    raw: dict[str, Any], changes: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(raw, **changes)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"out": "elsewhere"},
        {"workers": 7},
        {"base_url": "http://127.0.0.1:9/v1"},
        {"tracking": {"uri": "sqlite:///other.db"}},
        {"max_failed_share": 0.5},
        {"gates": {"max_copy_rate": 0.5}},
    ],
)
def test_where_and_how_fast_is_no_part_of_what(changes: dict[str, Any]) -> None:
    assert config(ASKS, **changes).identity() == config(ASKS).identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"upstreams": {"u": {"model": "copper"}}},
        {"upstreams": {"u": {"model": "amber", "sampling": {"temperature": 0.5}}}},
        {"warmup_share": 0.1},
        {"mix": {"s": 1}},
        {"packing": {"tokenizer": "models/one"}},
        {"prompt": {"use": "b"}},
        {"filters": {"max_chars": 10}},
    ],
)
def test_another_content_is_another_dataset(changes: dict[str, Any]) -> None:
    assert config(ASKS, **changes).identity() != config(ASKS).identity()
