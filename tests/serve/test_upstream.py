import asyncio

import pytest

from aligner.adapters.simworld_http import SimworldServer
from aligner.errors import ConfigError
from aligner.generation import Endpoint, Sampling
from aligner_serve.pipeline import Answered, Failed
from aligner_serve.upstream import Upstream

SAMPLING = Sampling(max_tokens=64, seed=0).model_dump(mode="json")
MESSAGES = [{"role": "user", "content": "What is the capital of Nowhere?"}]


def ask(endpoint: Endpoint) -> Answered | Failed:
    async def once() -> Answered | Failed:
        upstream = Upstream(endpoint.model_dump(mode="json"))
        try:
            return await upstream.ask(MESSAGES, SAMPLING)
        finally:
            await upstream.aclose()

    return asyncio.run(once())


def test_an_answer_comes_with_its_tokens() -> None:
    with SimworldServer(seed=0) as server:
        answered = ask(Endpoint(base_url=server.base_url, model="sterling"))
        unknown = ask(Endpoint(base_url=server.base_url, model="nobody", max_attempts=1))
    assert isinstance(answered, Answered)
    assert answered.text and answered.usage.completion_tokens
    assert unknown == Failed("http_404")


def test_a_dead_upstream_is_a_reason_and_no_address() -> None:
    # Nothing listens on the discard port of loopback.
    assert ask(Endpoint(base_url="http://127.0.0.1:9/v1", model="x", max_attempts=1)) == Failed(
        "refused"
    )


def test_a_key_that_is_not_set_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="x", api_key_env="UPSTREAM_KEY")
    with pytest.raises(ConfigError, match="UPSTREAM_KEY"):
        Upstream(endpoint.model_dump(mode="json"))
