import pytest
from pydantic import ValidationError

from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.upstream import BreakerConfig

ALIGNERS = {"fixer": {"source": {"kind": "path", "uri": "nowhere"}}}


def graph(**upstreams: object) -> GraphConfig:
    return GraphConfig.model_validate(
        {"base_url": "http://127.0.0.1:9/v1", "upstreams": upstreams, "aligners": ALIGNERS}
    )


def test_a_fallback_is_another_upstream_of_the_graph() -> None:
    assert graph(a={"fallbacks": ["b"]}, b={}).upstreams["a"].fallbacks == ("b",)
    for wrong in ("a", "c"):
        with pytest.raises(ValidationError, match=rf"upstreams.a.fallbacks: '{wrong}' is no other"):
            graph(a={"fallbacks": [wrong]}, b={})


def test_a_breaker_that_would_shrink_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValidationError, match="longest_open_s=2 is less than open_s=5; raise it"):
        BreakerConfig(longest_open_s=2.0)


def test_what_bounds_a_reply_reaches_its_endpoint() -> None:
    endpoint = graph(a={"timeout_s": 7, "max_attempts": 3}).endpoint("a")
    assert (endpoint.timeout_s, endpoint.max_attempts) == (7.0, 3)
