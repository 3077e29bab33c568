from pathlib import Path

import pytest

from aligner.config import load
from aligner.errors import ConfigError
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import FromRegistry

SMALLEST = """
base_url: http://127.0.0.1:8100/v1
upstreams:
  up: {}
aligners:
  fixer:
    source: {kind: registry, model: fixer}
"""


def read(tmp_path: Path, *overrides: str, text: str = SMALLEST) -> GraphConfig:
    path = tmp_path / "graph.yaml"
    path.write_text(text, encoding="utf-8")
    return load(GraphConfig, path, overrides)


def test_a_small_file_gives_a_safe_graph(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert config.host == "127.0.0.1"
    assert not config.is_open_to_others
    aligner = config.aligners["fixer"]
    assert aligner.on_failure == "passthrough"
    assert aligner.sampling.temperature == 0.0
    assert isinstance(aligner.source, FromRegistry)
    assert aligner.source.version == "@champion"
    assert config.served_models == {"up+fixer": ("up", ("fixer",))}


def test_every_upstream_goes_with_every_aligner_and_stacks_and_raw_models_are_named(
    tmp_path: Path,
) -> None:
    config = read(
        tmp_path,
        "upstreams.other={raw: true}",
        "aligners.tidy={source: {kind: path, uri: x}}",
        "stacks=[[fixer, tidy]]",
    )
    assert list(config.served_aligners) == ["fixer", "tidy", "fixer+tidy"]
    assert set(config.served_models) == {
        "other",
        *(f"{up}+{a}" for up in ("up", "other") for a in ("fixer", "tidy", "fixer+tidy")),
    }
    assert config.served_models["other"] == ("other", ())
    assert config.served_models["up+fixer+tidy"] == ("up", ("fixer", "tidy"))


def test_an_upstream_takes_the_graphs_address_and_its_own_name_as_the_model(
    tmp_path: Path,
) -> None:
    config = read(tmp_path, "upstreams.other={base_url: 'http://llm.example/v1', model: big}")
    assert config.endpoint("up").base_url == "http://127.0.0.1:8100/v1"
    assert config.endpoint("up").model == "up"
    assert config.endpoint("other").base_url == "http://llm.example/v1"
    assert config.endpoint("other").model == "big"


def test_a_version_may_be_written_as_a_number(tmp_path: Path) -> None:
    source = read(tmp_path, "aligners.fixer.source.version=3").aligners["fixer"].source
    assert isinstance(source, FromRegistry)
    assert source.version == "3"


def test_only_sources_that_may_move_are_watched(tmp_path: Path) -> None:
    other = "aligners.tidy={source: {kind: path, uri: x}}"
    candidate = (
        "aligners.tidy.challenger="
        "{kind: shadow, source: {kind: registry, model: tidy, version: '@candidate'}}"
    )
    config = read(tmp_path, other, candidate)
    assert list(config.seats) == ["fixer", "tidy", "tidy (challenger)"]
    assert config.watched == ("fixer", "tidy (challenger)")
    assert read(tmp_path, "aligners.fixer.source.version=3").watched == ()
    assert read(tmp_path, "watch_s=null").watched == ()


def test_a_challenger_needs_an_engine_of_its_own(tmp_path: Path) -> None:
    guest = (
        "aligners.tidy={source: {kind: path, uri: x}, engine: {kind: shared, aligner: fixer}, "
        "challenger: {kind: canary, source: {kind: path, uri: y}}}"
    )
    with pytest.raises(ConfigError, match=r"tidy.*engine\.kind=own"):
        read(tmp_path, "aligners.fixer.engine.base=x", guest)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prot=1", ["'prot' is unknown", "'port'"]),
        ("port=0", ["port", "greater than or equal to 1"]),
        ("base_url=null", ["upstream 'up' has no base_url"]),
        ("base_url=ftp://x", ["http://"]),
        ("base_url=http://user:secret@host/v1", ["api_key_env"]),
        ("upstreams={}", ["upstreams"]),
        ("upstreams.a+b={}", ["'a+b' is no name"]),
        ("aligners.a b={source: {kind: path, uri: x}}", ["'a b' is no name"]),
        ("aligners={}", ["aligners"]),
        ("stacks=[[fixer, tidy]]", ["'tidy' is no aligner", "fixer"]),
        ("upstreams.up.fallbacks=[up]", ["'up' is no other upstream"]),
        ("upstreams.up.kind=magic", ["upstreams"]),
        ("aligners.fixer.on_failure=ignore", ["on_failure", "'passthrough'"]),
        ("aligners.fixer.source={kind: path}", ["uri", "missing"]),
        (
            "aligners.fixer.challenger={kind: canary, source: {kind: path, uri: x}, share: 1}",
            ["share", "less than 1"],
        ),
        (
            "aligners.fixer={source: {kind: path, uri: x}, keep: {calibration: y}, "
            "challenger: {kind: shadow, source: {kind: registry, model: z}}}",
            ["keep.calibration holds for one export", "leave it out"],
        ),
        (
            "aligners.fixer={source: {kind: registry, model: x}, keep: {}, "
            "challenger: {kind: canary, source: {kind: path, uri: y}}}",
            ["a challenger of source.kind=path", "remove keep"],
        ),
        ("aligners.fixer.challenger={kind: twin}", ["challenger", "'canary'", "'shadow'"]),
        ("aligners.fixer.scaling.min_replicas=2", ["raise max_replicas"]),
        (
            "aligners.fixer={source: {kind: path, uri: x}, prefill_ahead: {}, "
            "scaling: {max_queued_requests: 8}}",
            ["max_ongoing=8", "raise aligners.fixer.scaling.max_queued_requests"],
        ),
        ("aligners.fixer.scaling.target_ongoing_requests=99", ["lower the target"]),
    ],
)
def test_a_mistake_is_told_with_its_place_and_its_remedy(
    tmp_path: Path, override: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, override)
    for word in ["graph.yaml", *words]:
        assert word in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "is_open", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8000"),
        ("localhost", False, "http://localhost:8000"),
        ("::1", False, "http://[::1]:8000"),
        ("0.0.0.0", True, "http://127.0.0.1:8000"),
        ("10.1.2.3", True, "http://10.1.2.3:8000"),
        ("gateway.example", True, "http://gateway.example:8000"),
    ],
)
def test_it_is_known_who_can_reach_the_port(
    tmp_path: Path, host: str, is_open: bool, url: str
) -> None:
    config = read(tmp_path, f"host='{host}'", "access.keys=keys.yaml")
    assert (config.is_open_to_others, config.url) == (is_open, url)
