"""An upstream behind an API against real servers on loopback."""

import asyncio

import pytest

from aligner.adapters.simworld_http import SimworldServer
from aligner.errors import ConfigError
from aligner.generation import Endpoint, Sampling
from aligner_serve.config.upstream import ApiUpstream
from aligner_serve.pieces import Delta, Failed, Finished, Piece
from aligner_serve.upstream import Upstream

SAMPLING = Sampling(max_tokens=64, seed=0)
MESSAGES = [{"role": "user", "content": "What is the capital of Nowhere?"}]
STREAMS = ApiUpstream()
WHOLE = ApiUpstream(stream=False)


def made(endpoint: Endpoint, settings: ApiUpstream = STREAMS) -> Upstream:
    return Upstream("up", endpoint, settings)


def ask(
    endpoint: Endpoint, *, stream: bool = False, settings: ApiUpstream = STREAMS
) -> list[Piece]:
    async def once() -> list[Piece]:
        upstream = made(endpoint, settings)
        try:
            pieces = upstream.ask(MESSAGES, SAMPLING, deadline_s=10.0, stream=stream)
            return [piece async for piece in pieces]
        finally:
            await upstream.aclose()

    return asyncio.run(once())


def test_an_answer_comes_with_its_tokens_however_it_is_asked_for() -> None:
    with SimworldServer(seed=0) as server:
        endpoint = Endpoint(base_url=server.base_url, model="sterling")
        answers = [
            ask(endpoint, stream=stream, settings=settings)
            for stream in (True, False)
            for settings in (STREAMS, WHOLE)
        ]
    texts = set()
    for *deltas, end in answers:
        assert isinstance(end, Finished) and end.by == "up"
        assert end.usage.prompt_tokens and end.usage.completion_tokens
        texts.add("".join(piece.text for piece in deltas if isinstance(piece, Delta)))
    assert len(texts) == 1 and texts.pop()


def test_an_unknown_model_and_a_dead_upstream_are_reasons_and_no_addresses() -> None:
    with SimworldServer(seed=0) as server:
        assert ask(Endpoint(base_url=server.base_url, model="nobody")) == [Failed("http_404")]
    # Nothing listens on the discard port of loopback.
    nobody = Endpoint(base_url="http://127.0.0.1:9/v1", model="x", max_attempts=1)
    assert ask(nobody) == [Failed("refused")]


def test_a_key_that_is_not_set_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="x", api_key_env="UPSTREAM_KEY")
    with pytest.raises(ConfigError, match="UPSTREAM_KEY"):
        made(endpoint)
