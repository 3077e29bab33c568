from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aligner_serve.config.access import AccessConfig
from aligner_serve.config.graph import GraphConfig


def graph(**changes: Any) -> GraphConfig:
    return GraphConfig.model_validate(
        {
            "base_url": "http://127.0.0.1:8100/v1",
            "upstreams": {"up": {}},
            "aligners": {"fixer": {"source": {"kind": "path", "uri": "nowhere"}}},
            **changes,
        }
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gateway.example"])
def test_a_port_that_others_can_reach_is_opened_with_keys_alone(host: str) -> None:
    with pytest.raises(ValidationError, match=r"aligner keys new.*access\.keys"):
        graph(host=host)
    assert graph(host=host, access={"keys": "keys.yaml"}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_on_loopback_no_key_is_needed(host: str) -> None:
    assert graph(host=host).access.keys is None


def test_a_private_address_needs_its_network() -> None:
    upstreams = {"up": {"base_url": "http://10.0.0.7:8000/v1"}}
    with pytest.raises(ValidationError, match=r"10\.0\.0\.7 .* access\.networks"):
        graph(upstreams=upstreams)
    config = graph(upstreams=upstreams, access={"networks": ["10.0.0.0/8"]})
    again = GraphConfig.model_validate(config.model_dump(mode="json"))
    assert again.endpoint("up").networks == config.access.networks


def test_the_key_file_is_found_from_every_folder() -> None:
    keys = AccessConfig(keys="keys.yaml").keys
    assert keys == str(Path.cwd() / "keys.yaml")
    assert AccessConfig(keys=keys).keys == keys
