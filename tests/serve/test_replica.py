"""Which correctors a replica of the gateway puts behind the names of the aligners."""

from typing import Any

from aligner_serve import replica, routing
from aligner_serve.config.graph import GraphConfig
from aligner_serve.handles import CorrectorHandle

SOURCE = {"kind": "registry", "model": "fixer", "version": "@candidate"}


class Handle:
    """Stands for a Ray Serve handle."""

    def options(self, **_: Any) -> "Handle":
        return self


def routed(challenger: dict[str, Any] | None) -> Any:
    config = GraphConfig.model_validate(
        {
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"up": {}},
            "aligners": {"fixer": {"source": {**SOURCE, "version": "1"}, "challenger": challenger}},
        }
    )
    found = replica._routed(config, {seat: Handle() for seat in config.seats})
    assert found.keys() == {"fixer"}
    return found["fixer"]


def test_an_aligner_without_a_challenger_is_asked_directly() -> None:
    assert isinstance(routed(None), CorrectorHandle)


def test_a_canary_and_a_shadow_stand_behind_their_aligners_name() -> None:
    assert isinstance(routed({"kind": "canary", "source": SOURCE}), routing.Canary)
    assert isinstance(routed({"kind": "shadow", "source": SOURCE}), routing.Shadow)
