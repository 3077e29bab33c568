from pathlib import Path

import pytest

from aligner.config import load
from aligner.errors import ConfigError
from aligner_serve.config.aligner import FromRegistry
from aligner_serve.config.graph import GraphConfig

SMALLEST = """
base_url: http://127.0.0.1:8100/v1
upstreams:
  up: {}
aligner:
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
    assert config.aligner.on_failure == "passthrough"
    assert config.aligner.sampling.temperature == 0.0
    assert isinstance(config.aligner.source, FromRegistry)
    assert config.aligner.source.version == "@champion"
    assert config.served_models == {"up+aligner": "up"}


def test_an_upstream_takes_the_graphs_address_and_its_own_name_as_the_model(
    tmp_path: Path,
) -> None:
    config = read(tmp_path, "upstreams.other={base_url: 'http://10.0.0.1/v1', model: big}")
    assert config.endpoint("up").base_url == "http://127.0.0.1:8100/v1"
    assert config.endpoint("up").model == "up"
    assert config.endpoint("other").base_url == "http://10.0.0.1/v1"
    assert config.endpoint("other").model == "big"


def test_a_version_may_be_written_as_a_number(tmp_path: Path) -> None:
    source = read(tmp_path, "aligner.source.version=3").aligner.source
    assert isinstance(source, FromRegistry)
    assert source.version == "3"


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
        ("aligner.name=a b", ["'a b' is no name"]),
        ("aligner.on_failure=ignore", ["on_failure", "'passthrough'"]),
        ("aligner.source={kind: path}", ["uri", "missing"]),
        ("aligner.scaling.min_replicas=2", ["raise max_replicas"]),
        ("aligner.scaling.target_ongoing_requests=99", ["lower the target"]),
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
    config = read(tmp_path, f"host='{host}'")
    assert (config.is_open_to_others, config.url) == (is_open, url)
