"""Where the client of an API goes, and where not, over real sockets."""

import asyncio
import ipaddress
import socket
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from aligner.adapters.openai_http import OpenAIChat
from aligner.errors import EndpointError, GenerationError
from aligner.failures import failure_reason
from aligner.generation import Endpoint, Sampling

MESSAGES = [{"role": "user", "content": "Why?"}]


class Api:
    """Answers, or points elsewhere, and counts who comes."""

    def __init__(self, location: str | None = None) -> None:
        self.location = location
        self.asked = 0

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.asked += 1
        if self.location is not None:
            return web.Response(status=307, headers={"Location": self.location})
        message = {"role": "assistant", "content": "Because."}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})


def ask(api: Api, host: str, **settings: Any) -> str:
    """The text, or the reason why there is none."""

    async def run() -> str:
        async with RawTestServer(api, host="0.0.0.0") as server:
            endpoint = Endpoint(
                base_url=f"http://{host}:{server.port}/v1", model="m", max_attempts=1, **settings
            )
            async with OpenAIChat(endpoint) as chat:
                return (await chat.complete(MESSAGES, Sampling())).text

    try:
        return asyncio.run(run())
    except GenerationError as exc:
        return failure_reason(exc)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_that_is_called_so_is_reached(host: str) -> None:
    assert ask(Api(), host, networks=()) == "Because."


@pytest.fixture
def name() -> str:
    """This machine's name, which leads to loopback or into its private network."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        pytest.skip("this machine's name is not known to its resolver")
    if ipaddress.ip_address(address).is_global:
        pytest.skip("this machine's name leads to a public address")
    return name


def test_a_name_that_leads_to_a_private_address_is_not_followed(name: str) -> None:
    api = Api()
    assert ask(api, name, networks=()) == "forbidden"
    assert api.asked == 0
    assert ask(api, name, networks=("0.0.0.0/0",)) == "Because."
    assert ask(api, name) == "Because."


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1"])
def test_an_address_in_disguise_leads_nowhere(host: str) -> None:
    api = Api()
    assert ask(api, host, networks=()) != "Because."
    assert api.asked == 0


def test_the_remedy_is_told(name: str) -> None:
    async def run() -> None:
        endpoint = Endpoint(base_url=f"http://{name}:9/v1", model="m", networks=())
        async with OpenAIChat(endpoint) as chat:
            await chat.complete(MESSAGES, Sampling())

    with pytest.raises(EndpointError, match=r"^forbidden: .* access\.networks\.$"):
        asyncio.run(run())


def test_a_redirection_is_not_followed() -> None:
    elsewhere = Api()

    async def run() -> str:
        async with RawTestServer(elsewhere) as server:
            return await asyncio.to_thread(ask, Api(str(server.make_url("/v1"))), "127.0.0.1")

    assert asyncio.run(run()) == "http_307"
    assert elsewhere.asked == 0


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(Api(), "127.0.0.1", networks=()) == "Because."
