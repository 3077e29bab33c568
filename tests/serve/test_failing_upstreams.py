"""The real gateway over HTTP, and an upstream that breaks in every way: who pays, and how long."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence

import pytest
import uvicorn
from broken_api import ANSWER, RETRY_AFTER_S, Behaviour, BrokenApi
from gateway_client import Client, eventually
from unread import Unread

from aligner.records import Question
from aligner_serve.asking import breakers_of, with_fallbacks
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.upstream import ApiUpstream
from aligner_serve.gateway import Gateway
from aligner_serve.ingress import build_api
from aligner_serve.pieces import Delta, Finished, Piece
from aligner_serve.telemetry import Silent
from aligner_serve.upstream import Upstream

CANARY = "canary"
CORRECTED = ANSWER.upper()
DEADLINE_S = 60.0
SOON_S = DEADLINE_S / 2
"""What an upstream's own limits end is over by then, however busy the machine is."""
# The first seven end in the upstream's own limits, the others as soon as they are seen.
BROKEN: Sequence[Behaviour] = (
    "hangs",
    "stalls",
    "drips",
    "comments",
    "floods",
    "floods_line",
    "floods_error",
    "breaks_off",
    "ends_early",
    "reports_error",
    "garbage",
    "garbage_stream",
    "busy",
    "fails",
)


class Shouting(Unread):
    """A corrector."""

    async def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        yield Delta(answer.upper())
        yield Finished(by="shouting")

    async def check_health(self) -> bool:
        return True


class Service(Client):
    """A gateway on a port, between clients and two APIs of which one breaks."""

    def __init__(self, bad: BrokenApi, good: BrokenApi) -> None:
        self.bad, self.good = bad, good
        fragile = {
            **{"raw": True, "max_attempts": 1, "timeout_s": 1.0},
            **{"first_token_timeout_s": 0.3, "idle_timeout_s": 0.3},
            "breaker": {"failures": 3, "open_s": 0.3},
        }
        self.config = GraphConfig.model_validate(
            {
                "deadline_s": DEADLINE_S,
                "base_url": bad.base_url,
                "upstreams": {
                    "bad": fragile,
                    "backed": {**fragile, "fallbacks": ["good"]},
                    "patient": {"raw": True, "max_attempts": 1},
                    "shut": {"max_attempts": 1, "breaker": {"failures": 3, "open_s": 60}},
                    "steady": {"raw": True, "max_attempts": 1, "fallbacks": ["good"]},
                    "good": {"base_url": good.base_url, "raw": True},
                },
                "aligners": {"loud": {"source": {"kind": "path", "uri": "nowhere"}}},
            }
        )
        self.breakers = breakers_of(self.config)
        self._upstreams = {name: self._upstream(name) for name in self.config.upstreams}
        gateway = Gateway(
            self.config,
            upstreams=with_fallbacks(self.config, self._upstreams, self.breakers),
            correctors={"loud": Shouting()},
            telemetry=Silent(),
        )
        self._server = uvicorn.Server(
            uvicorn.Config(build_api(gateway), port=0, log_level="warning", access_log=False)
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        await self._server.serve()
        for upstream in self._upstreams.values():
            await upstream.aclose()

    def _upstream(self, name: str) -> Upstream:
        settings = self.config.upstreams[name]
        assert isinstance(settings, ApiUpstream)
        return Upstream(name, self.config.endpoint(name), settings)

    def __enter__(self) -> "Service":
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        super().__init__(f"http://127.0.0.1:{port}")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def states(self) -> dict[str, bool]:
        """Of each upstream, whether its breaker is closed."""
        return {name: breaker.state == "closed" for name, breaker in self.breakers.items()}


@pytest.fixture(scope="module")
def apis() -> Iterator[tuple[BrokenApi, BrokenApi]]:
    with BrokenApi() as bad, BrokenApi() as good:
        yield bad, good


@pytest.fixture
def service(apis: tuple[BrokenApi, BrokenApi]) -> Iterator[Service]:
    bad, good = apis
    bad.behaviour = "works"
    with Service(bad, good) as service:
        yield service


def test_an_upstream_that_works_is_corrected_raw_and_streamed(service: Service) -> None:
    for model, text in (("patient+loud", CORRECTED), ("patient", ANSWER)):
        for stream in (False, True):
            seen = service.one(model, stream=stream)
            assert (seen.status, seen.text, seen.upstream) == (200, text, "patient")


@pytest.mark.parametrize("behaviour", BROKEN)
def test_it_costs_its_own_requests_alone_within_their_deadline_and_recovers(
    service: Service, behaviour: Behaviour
) -> None:
    service.bad.behaviour = behaviour
    broken = [("bad+loud", False), ("bad+loud", True)] * 4
    whole = [("good+loud", False), ("good", True)] * 4
    seen = service.many(broken + whole)
    for each in seen[: len(broken)]:
        assert each.status in (429, 502, 503, 504), each.raw
        assert each.code.startswith("upstream_")
        assert CANARY not in each.raw.lower()
        assert each.seconds < SOON_S
    for each in seen[len(broken) :]:
        assert each.status == 200 and each.seconds < SOON_S
    assert service.states() == {name: name != "bad" for name in service.breakers}
    service.bad.behaviour = "works"
    service.recovers("bad+loud")
    assert all(service.states().values())


@pytest.mark.parametrize("behaviour", BROKEN)
def test_with_a_fallback_nobody_notices(service: Service, behaviour: Behaviour) -> None:
    service.bad.behaviour = behaviour
    for seen in service.many([("backed+loud", False), ("backed+loud", True)] * 4):
        assert (seen.status, seen.text, seen.upstream) == (200, CORRECTED, "good")
        assert seen.seconds < SOON_S


@pytest.mark.parametrize("behaviour", ["hangs", "fails", "garbage_stream"])
def test_a_raw_stream_falls_back_before_its_first_token(
    service: Service, behaviour: Behaviour
) -> None:
    service.bad.behaviour = behaviour
    seen = service.one("backed", stream=True)
    assert (seen.status, seen.text, seen.upstream) == (200, ANSWER, "good")


def test_a_raw_stream_that_breaks_off_ends_in_an_error(service: Service) -> None:
    service.bad.behaviour = "breaks_off"
    seen = service.one("steady", stream=True)
    assert seen.status == 200
    assert ANSWER.startswith(seen.text) and seen.text
    assert seen.code == "upstream_connection_lost"


def test_an_open_breaker_answers_at_once_and_says_when_to_come_back(service: Service) -> None:
    service.bad.behaviour = "fails"
    service.many([("shut+loud", False)] * 3)
    asked = len(service.bad.requests)
    seen = service.one("shut+loud")
    assert (seen.status, seen.code) == (503, "upstream_breaker_open")
    assert 1 < int(seen.headers["retry-after"]) <= 60
    assert len(service.bad.requests) == asked


def test_what_the_upstream_says_of_its_limit_reaches_the_client(service: Service) -> None:
    service.bad.behaviour = "busy"
    seen = service.one("patient+loud")
    assert (seen.status, seen.code) == (429, "upstream_http_429")
    assert seen.headers["retry-after"] == str(RETRY_AFTER_S)


def test_a_request_that_is_refused_leaves_the_breaker_closed(service: Service) -> None:
    service.bad.behaviour = "refuses"
    asked = len(service.good.requests)
    for seen in service.many([("steady+loud", False)] * 6):
        assert (seen.status, seen.code) == (502, "upstream_http_400")
    assert service.breakers["steady"].state == "closed"
    assert len(service.good.requests) == asked


def test_an_upstream_that_is_down_is_found_again(service: Service) -> None:
    service.bad.go_down()
    for seen in service.many([("patient+loud", False)] * 3):
        assert (seen.status, seen.code) == (502, "upstream_refused")
        assert seen.seconds < SOON_S
    service.bad.come_up()
    service.recovers("patient+loud")


def test_half_a_character_does_not_break_a_reply(service: Service) -> None:
    service.bad.behaviour = "half_characters"
    for stream in (False, True):
        assert service.one("patient+loud", stream=stream).text == "A ? B"


def test_a_client_that_goes_away_hangs_up_on_the_upstream(service: Service) -> None:
    service.bad.behaviour = "drips"
    before = service.bad.hung_up
    service.leave("patient", stream=True)
    eventually(lambda: service.bad.hung_up > before)
    assert all(service.states().values())
