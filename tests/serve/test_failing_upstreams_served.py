"""The same through Ray Serve: proxy, gateway and upstreams each in a process of their own."""

import sys
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import own_process
import pytest
from broken_api import ANSWER, Behaviour, BrokenApi
from gateway_client import Client, eventually
from ray import cloudpickle, serve

from aligner.records import Question
from aligner.runtime_env import free_port
from aligner_serve import app
from aligner_serve.config.graph import GraphConfig
from aligner_serve.pieces import Delta, Finished, Piece, gathered
from aligner_serve.replica import GatewayReplica

pytestmark = pytest.mark.e2e

CORRECTED = ANSWER.upper()
DEADLINE_S = 60.0
SOON_S = DEADLINE_S / 2
"""What an upstream's own limits end is over by then, however busy the machine is."""


class Shouting:
    """Stands for a corrector: no engine is needed here."""

    async def correct(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        yield Delta(answer.upper())
        yield Finished(by="shouting")

    async def correct_whole(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float
    ) -> list[Piece]:
        return await gathered(
            self.correct(aligner, question, answer, deadline_s=deadline_s, stream=False)
        )

    async def check_health(self) -> None:
        pass


class Served(Client):
    """A graph in Serve, and the API that breaks behind two of its upstreams."""

    def __init__(self, config: GraphConfig, bad: BrokenApi) -> None:
        super().__init__(config.url)
        self.bad = bad
        options = app._options(config, config.gateway)
        corrector: Any = serve.deployment(name="corrector", **options)(Shouting)
        gateway = serve.deployment(name="gateway", **options)(serve.ingress()(GatewayReplica))
        upstreams = {name: app._upstream(config, name) for name in config.upstreams}
        serve.run(
            gateway.bind(config.model_dump(mode="json"), upstreams, {"loud": corrector.bind()}),
            name="aligner",
        )


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with BrokenApi() as bad, BrokenApi() as good:
        fragile = {
            **{"raw": True, "max_attempts": 1, "timeout_s": 3.0},
            **{"first_token_timeout_s": 1.0, "idle_timeout_s": 1.0},
            "breaker": {"failures": 3, "open_s": 0.3},
        }
        config = GraphConfig.model_validate(
            {
                "port": free_port(),
                "deadline_s": DEADLINE_S,
                "base_url": bad.base_url,
                "upstreams": {
                    "bad": fragile,
                    # A deployment of its own changes nothing.
                    "backed": {**fragile, "fallbacks": ["good"], "scaling": {}},
                    "patient": {"raw": True, "scaling": {}},
                    "good": {"base_url": good.base_url, "raw": True},
                },
                "aligners": {"loud": {"source": {"kind": "path", "uri": "nowhere"}}},
                "shutdown_timeout_s": 2,
            }
        )
        # Replicas cannot import a file of tests.
        here = sys.modules[__name__]
        cloudpickle.register_pickle_by_value(here)  # type: ignore[no-untyped-call]
        try:
            with own_process.ray_and_serve(config):
                yield Served(config, bad)
        finally:
            cloudpickle.unregister_pickle_by_value(here)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "behaviour", ["hangs", "stalls", "breaks_off", "garbage_stream", "busy", "floods", "fails"]
)
def test_it_costs_its_own_requests_alone_and_recovers(served: Served, behaviour: Behaviour) -> None:
    served.bad.behaviour = behaviour
    kinds = [("bad+loud", False), ("bad+loud", True), ("good+loud", False), ("good", True)]
    backed = [("backed+loud", False), ("backed+loud", True)]
    seen = served.many((kinds + backed) * 2)
    for (model, _), each in zip((kinds + backed) * 2, seen, strict=True):
        assert each.seconds < SOON_S
        if model.startswith("bad"):
            assert each.status in (429, 502, 503, 504), each.raw
            assert "canary" not in each.raw.lower()
        else:
            text = ANSWER if model == "good" else CORRECTED
            assert (each.status, each.text, each.upstream) == (200, text, "good")
    served.bad.behaviour = "works"
    served.recovers("bad+loud")
    served.recovers("backed+loud")


@pytest.mark.parametrize(
    ("model", "stream"), [("patient", True), ("patient+loud", False), ("patient+loud", True)]
)
def test_a_client_that_goes_away_hangs_up_on_the_upstream(
    served: Served, model: str, *, stream: bool
) -> None:
    served.bad.behaviour = "drips"
    before, asked = served.bad.hung_up, len(served.bad.requests)
    # What is corrected says nothing while its upstream writes.
    silent = model != "patient"
    served.leave(model, stream=stream, once=lambda: silent and len(served.bad.requests) > asked)
    eventually(lambda: served.bad.hung_up > before)


def test_a_raw_stream_comes_piece_by_piece(served: Served) -> None:
    served.bad.behaviour = "works"
    seen = served.one("patient", stream=True)
    assert (seen.status, seen.text) == (200, ANSWER)
