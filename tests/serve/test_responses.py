"""Where a reply says what was saved: in ``aligner``, the headers, and a stream's last event.

Real correctors behind the real routes, over engines that only count.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import counted_graph
import pytest
from counted_graph import FIRST, FLAWED, GOOD, QUESTION, Graph
from starlette.testclient import TestClient

from aligner_serve.ingress import build_api
from aligner_serve.pieces import Savings, Usage
from aligner_serve.pipeline import StageReport
from aligner_serve.request_log import _stage


class Client:
    """Of a graph that reads ahead and keeps answers."""

    def __init__(self, graph: Graph, http: TestClient) -> None:
        self.graph, self.http = graph, http

    def chat(self, answer: str, **changes: Any) -> Any:
        self.graph.forget(answer)
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": f"up+{FIRST}", "messages": messages, **changes}
        return self.http.post("/v1/chat/completions", json=body)

    def post(self, route: str, **body: Any) -> Any:
        self.graph.forget(GOOD)
        return self.http.post(route, json={"model": FIRST, **body}).json()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("responses")
    counted_graph.write_exports(folder)
    config = counted_graph.settings(folder, prefill_ahead={"min_new_chars": 8})
    graph = asyncio.run(counted_graph.started(config, keep=True))
    with TestClient(build_api(graph.gateway)) as http:
        yield Client(graph, http)


def savings(report: Any) -> Any:
    (corrected,) = [one for one in report["stages"] if one["stage"] == "corrector"]
    return corrected["savings"]


def timings(response: Any) -> dict[str, str]:
    """Name to the rest of each part of ``Server-Timing``."""
    parts = response.headers["server-timing"].split(", ")
    return dict(part.split(";", 1) for part in parts)


def test_a_kept_answer_is_called_so_in_the_body_and_in_the_headers(client: Client) -> None:
    response = client.chat(GOOD)
    assert response.headers["x-aligner-outcome"] == "unchanged"
    found = savings(response.json()["aligner"])
    assert (found["kept"], found["decoded_tokens"], found["decode_steps"]) == (True, 0, 0)
    assert found["keep_score"] == pytest.approx(-0.1)
    # What was read while it was written.
    assert found["cached_tokens"] > 0
    told = timings(response)
    assert told.keys() == {"upstream", "corrector", "keep", "first-token"}
    assert told["keep"].startswith("dur=") and told["keep"].endswith(";desc=kept")


def test_a_doubted_answer_tells_what_it_lent(client: Client) -> None:
    response = client.chat(FLAWED)
    assert response.headers["x-aligner-outcome"] == "corrected"
    found = savings(response.json()["aligner"])
    assert found["kept"] is False
    assert found["trusted_tokens"] + found["decoded_tokens"] == len(GOOD) + 1
    assert 0 < found["decode_steps"] <= found["decoded_tokens"]
    assert found["first_token_milliseconds"] >= found["keep_milliseconds"]
    assert timings(response)["keep"].endswith(";desc=doubted")


@pytest.mark.parametrize(("answer", "kept"), [(GOOD, True), (FLAWED, False)])
def test_a_stream_says_it_with_its_last_event(client: Client, answer: str, kept: bool) -> None:
    response = client.chat(answer, stream=True)
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    *events, last = [json.loads(line) for line in lines if line != "[DONE]"]
    assert savings(last["aligner"])["kept"] is kept
    assert not any("aligner" in event for event in events)
    deltas = [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(deltas) == GOOD


def test_bare_corrections_say_it_too(client: Client) -> None:
    pair = {"question": QUESTION, "answer": GOOD}
    single = client.post("/v1/corrections", **pair)
    batch = client.post("/v1/corrections/batch", pairs=[pair, {**pair, "answer": FLAWED}])
    kept = [savings(one["aligner"])["kept"] for one in (single, *batch["data"])]
    assert kept == [True, True, False]
    assert [one["outcome"] for one in batch["data"]] == ["unchanged", "corrected"]


def test_an_aligner_that_keeps_nothing_says_nothing_of_it(client: Client) -> None:
    found = client.post("/v1/corrections", question=QUESTION, answer=GOOD, model="second")
    assert found["outcome"] == "unchanged"
    assert not savings(found["aligner"]).keys() & {"kept", "keep_score"}


@pytest.mark.parametrize("kept", [True, False, None])
def test_the_log_has_it_as_well(kept: bool | None) -> None:
    stage = StageReport("corrector", FIRST, 1, 2.0, Usage(3, 4), "v", savings=Savings(kept=kept))
    assert _stage(stage, {}).get("kept") is kept
