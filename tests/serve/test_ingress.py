"""The HTTP API over fakes: what a client sees, status by status."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from unread import Unread

from aligner.generation import Messages, Sampling
from aligner.records import Question, Turn
from aligner_serve.config.graph import GraphConfig
from aligner_serve.gateway import Gateway
from aligner_serve.ingress import Admission, build_api
from aligner_serve.pieces import Delta, Failed, Finished, Piece, Usage
from aligner_serve.pipeline import Trouble
from aligner_serve.telemetry import Ended

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "openapi.json"
MODEL = "up+fixer"
CANARY = "raw answer"


class FakeUpstream:
    """Gives the pieces that it was made with, and remembers what it was asked."""

    def __init__(self, *pieces: Piece | float) -> None:
        self.pieces = pieces
        self.asked: list[tuple[Messages, Sampling]] = []

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        self.asked.append((messages, sampling))
        async for piece in given(self.pieces):
            yield piece


class FakeCorrector(Unread):
    """Gives the pieces that it was made with."""

    def __init__(self, *pieces: Piece | float) -> None:
        self.pieces = pieces
        self.asked: list[tuple[Question, str, bool]] = []
        self.healthy = True

    async def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        self.asked.append((question, answer, stream))
        async for piece in given(self.pieces):
            yield piece

    async def check_health(self) -> bool:
        return self.healthy


async def given(pieces: Sequence[Piece | float]) -> AsyncGenerator[Piece]:
    """A number is a pause in seconds."""
    for piece in pieces:
        if isinstance(piece, float):
            await asyncio.sleep(piece)
        else:
            yield piece


class Ledger:
    """Telemetry that remembers."""

    def __init__(self) -> None:
        self.records: list[Ended] = []

    def ended(self, record: Ended) -> None:
        self.records.append(record)


class Served:
    """A gateway over fakes, and a client to it."""

    def __init__(
        self,
        *events: Piece | float,
        answer: Sequence[Piece | float] = (),
        on_failure: str = "passthrough",
        **changes: Any,
    ) -> None:
        said = (Delta(CANARY), Finished(Usage(3, 2), by="up"))
        self.upstream = FakeUpstream(*(answer or said))
        self.corrector = FakeCorrector(*events)
        self.ledger = Ledger()
        aligner = {"source": {"kind": "path", "uri": "nowhere"}, "on_failure": on_failure}
        config = GraphConfig.model_validate(
            {
                "base_url": "http://127.0.0.1:9/v1",
                "upstreams": {
                    "up": {"max_tokens_limit": 100, "sampling": {"max_tokens": 50}, "raw": True}
                },
                "aligners": {"fixer": {**aligner, **changes.pop("fixer", {})}},
                **changes,
            }
        )
        self.gateway_correctors = {"fixer": self.corrector}
        gateway = Gateway(
            config,
            upstreams={"up": self.upstream},
            correctors=self.gateway_correctors,
            telemetry=self.ledger,
        )
        self.api = build_api(gateway)
        self.client = TestClient(self.api, raise_server_exceptions=False)

    def chat(self, **changes: Any) -> Any:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Why?"}], **changes}
        return self.client.post("/v1/chat/completions", json=body)

    def events(self, **changes: Any) -> list[Any]:
        response = self.chat(stream=True, **changes)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1] if not line.startswith(":")]


VERSION = "models:/fixer/3"
CORRECTED = (Delta("better "), Delta("answer"), Finished(Usage(10, 4), by=VERSION))


def text_of(events: list[Any]) -> str:
    deltas = [event["choices"][0]["delta"] for event in events if event.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_a_corrected_answer_comes_as_a_chat_completion() -> None:
    served = Served(*CORRECTED)
    response = served.chat()
    body = response.json()
    assert response.status_code == 200
    assert response.headers["x-aligner-outcome"] == "corrected"
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "better answer"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 13, "completion_tokens": 6, "total_tokens": 19}
    told = body["aligner"]
    assert told.keys() == {"outcome", "upstream", "version", "similarity", "edits", "stages"}
    assert (told["upstream"], told["version"]) == ("up", VERSION)
    assert told["edits"] == {"words_removed": 1, "words_added": 1}
    assert [(one["stage"], one["name"]) for one in told["stages"]] == [
        ("upstream", "up"),
        ("corrector", "fixer"),
    ]
    assert told["stages"][1]["usage"]["completion_tokens"] == 4
    assert body["choices"][0]["aligner"] == told
    assert response.headers["x-aligner-version"] == VERSION
    assert response.headers["server-timing"].startswith("upstream;dur=")
    assert CANARY not in response.text


def test_the_upstream_gets_all_messages_and_the_corrector_the_turns() -> None:
    served = Served(*CORRECTED)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "Why?"},
    ]
    served.chat(messages=messages, temperature=0.5)
    ((sent, sampling),) = served.upstream.asked
    assert sent == messages
    assert (sampling.temperature, sampling.max_tokens) == (0.5, 50)
    history = (Turn("user", "Is it?"), Turn("assistant", "It is."))
    assert served.corrector.asked == [(Question("Why?", history), CANARY, False)]


def test_the_original_is_shown_to_those_who_ask_for_it() -> None:
    body = Served(*CORRECTED).chat(aligner={"include_original": True}).json()
    assert body["aligner"]["original"] == CANARY


def test_the_original_is_not_shown_where_the_config_forbids_it() -> None:
    served = Served(*CORRECTED, fixer={"show_original": False})
    response = served.chat(aligner={"include_original": True})
    assert response.status_code == 200
    assert CANARY not in response.text


def test_an_answer_that_passes_uncorrected_says_so_and_why() -> None:
    response = Served(Failed("too_long")).chat()
    assert response.json()["choices"][0]["message"]["content"] == CANARY
    assert response.headers["x-aligner-outcome"] == "passthrough"
    assert response.json()["aligner"]["reason"] == "too_long"


@pytest.mark.parametrize("include", [False, True])
def test_a_withheld_answer_is_withheld_everywhere(include: bool) -> None:
    served = Served(Failed("timeout"), on_failure="block")
    response = served.chat(aligner={"include_original": include})
    body = response.json()
    assert response.headers["x-aligner-outcome"] == "blocked"
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert body["choices"][0]["message"]["content"] is None
    assert body["choices"][0]["message"]["refusal"]
    assert CANARY not in response.text
    events = served.events(aligner={"include_original": include})
    assert events[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert CANARY not in json.dumps(events)


def test_a_stream_carries_the_corrected_text_and_ends_with_the_outcome() -> None:
    *events, counted = Served(*CORRECTED).events(stream_options={"include_usage": True})
    assert text_of(events) == "better answer"
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 3 + ["stop"]
    assert events[-1]["aligner"]["outcome"] == "corrected"
    assert [event["usage"] for event in events] == [None] * 4
    assert (counted["choices"], counted["usage"]["total_tokens"]) == ([], 19)
    assert CANARY not in json.dumps(events)


def test_a_stream_that_could_not_be_corrected_carries_the_answer_once() -> None:
    served = Served(Failed("unavailable"))
    events = served.events()
    assert text_of(events) == CANARY
    assert events[-1]["aligner"]["outcome"] == "passthrough"
    assert served.chat(stream=True).headers["x-aligner-outcome"] == "passthrough"


def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    events = Served(Delta("half"), Failed("length")).events()
    assert text_of(events) == "half"
    assert events[-1]["error"]["code"] == "corrector_length"
    assert CANARY not in json.dumps(events)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("refused", 502),
        ("http_500", 502),
        ("timeout", 504),
        ("busy", 429),
        ("http_429", 429),
        ("unavailable", 503),
    ],
)
def test_an_upstream_that_fails_is_an_openai_error(reason: str, status: int, stream: bool) -> None:
    response = Served(answer=[Failed(reason, retry_after_s=2.5)]).chat(stream=stream)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == f"upstream_{reason}"
    assert response.headers.get("retry-after") == ("3" if status in (429, 503) else None)


@pytest.mark.parametrize("stream", [False, True])
def test_under_the_policy_error_a_failed_correction_is_an_openai_error(stream: bool) -> None:
    response = Served(Failed("too_long"), on_failure="error").chat(stream=stream)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "corrector_too_long"
    assert CANARY not in response.text


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 9}, "temperature"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"aligner": {"wrong": 1}}, "aligner.wrong"),
        ({"max_tokens": 101}, "max_tokens"),
    ],
)
def test_a_request_that_is_wrong_is_told_where(changes: dict[str, Any], param: str) -> None:
    response = Served(*CORRECTED).chat(**changes)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"model": "\\ud800"}', b"\xff"])
def test_a_body_that_is_no_request_is_an_openai_error(body: bytes) -> None:
    served = Served(*CORRECTED)
    routes = ("chat/completions", "completions", "corrections", "corrections/batch")
    for path in (f"/v1/{route}" for route in routes):
        response = served.client.post(path, content=body)
        assert response.status_code == 400
        assert response.json()["error"]["message"]


def test_an_unknown_model_is_told_which_there_are() -> None:
    response = Served(*CORRECTED).chat(model="fixer")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert MODEL in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/docs", 404)],
)
def test_other_routes_are_openai_errors_too(method: str, path: str, status: int) -> None:
    response = Served(*CORRECTED).client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_fault_of_our_own_is_an_error_object_without_its_text() -> None:
    served = Served(*CORRECTED)
    served.upstream.ask = None  # type: ignore[method-assign, assignment]
    response = served.chat()
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "NoneType" not in response.text


def test_a_correction_can_be_asked_for_alone() -> None:
    served = Served(*CORRECTED)
    body = {
        "question": "Why?",
        "answer": "Dunno.",
        "history": [{"role": "user", "content": "Is it?"}],
    }
    response = served.client.post("/v1/corrections", json=body)
    reply = response.json()
    assert response.status_code == 200
    assert (reply["correction"], reply["outcome"]) == ("better answer", "corrected")
    assert response.headers["x-aligner-outcome"] == "corrected"
    assert served.corrector.asked == [
        (Question("Why?", (Turn("user", "Is it?"),)), "Dunno.", False)
    ]
    assert served.upstream.asked == []
    assert [stage["stage"] for stage in reply["aligner"]["stages"]] == ["corrector"]


def test_a_correction_by_an_unknown_aligner_is_refused() -> None:
    served = Served(*CORRECTED)
    body = {"question": "Why?", "answer": "x", "model": "other"}
    assert served.client.post("/v1/corrections", json=body).status_code == 404
    assert served.client.post("/v1/corrections", json={**body, "model": "fixer"}).is_success


def test_more_than_the_gateway_should_work_on_is_turned_away() -> None:
    served = Served(*CORRECTED)
    served.client = TestClient(Admission(served.api, limit=0))
    response = served.chat()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "gateway_busy"
    assert served.client.get("/healthz").status_code == 200


def test_a_request_that_has_ended_makes_room_for_the_next() -> None:
    served = Served(*CORRECTED)
    served.client = TestClient(Admission(served.api, limit=1))
    for _ in range(3):
        assert served.chat().status_code == 200
        assert served.events()
        assert served.chat(messages=[]).status_code == 400


def test_the_models_are_listed() -> None:
    body = Served().client.get("/v1/models").json()
    assert [model["id"] for model in body["data"]] == ["up", MODEL]


def test_health_and_readiness_are_two_things() -> None:
    served = Served()
    served.corrector.healthy = False
    assert served.client.get("/healthz").status_code == 200
    response = served.client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")
    assert response.json()["correctors"] == {"fixer": False}
    served.corrector.healthy = True
    assert served.client.get("/readyz").status_code == 200


def test_every_end_is_counted_once() -> None:
    served = Served(*CORRECTED)
    served.chat()
    served.events()
    served.client.post("/v1/corrections", json={"question": "q", "answer": "a"})
    broken = Served(Delta("half"), Failed("length"))
    broken.events()
    records = served.ledger.records
    assert [record.route for record in records] == ["chat", "chat", "corrections"]
    assert [record.model for record in records] == [MODEL, MODEL, "fixer"]
    assert len({record.request_id for record in records}) == 3
    assert [type(record.end) for record in broken.ledger.records] == [Trouble]


# --- choices, completions, batches, raw models ------------------------------------------------


def test_each_choice_is_asked_for_and_corrected_by_itself() -> None:
    served = Served(*CORRECTED)
    body = served.chat(n=3, seed=7).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {"better answer"}
    assert sorted(sampling.seed or 0 for _, sampling in served.upstream.asked) == [7, 8, 9]
    assert body["usage"]["total_tokens"] == 3 * 19
    assert len(served.ledger.records) == 3


def test_streamed_choices_each_have_their_number() -> None:
    *events, counted = Served(*CORRECTED).events(n=2, stream_options={"include_usage": True})
    for index in (0, 1):
        own = [event for event in events if event["choices"][0]["index"] == index]
        assert text_of(own) == "better answer"
        assert own[-1]["aligner"]["outcome"] == "corrected"
    assert counted["usage"]["total_tokens"] == 2 * 19


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_a_chat_of_one_message(stream: bool) -> None:
    served = Served(*CORRECTED)
    body = {"model": MODEL, "prompt": ["Why?", "How?"], "stream": stream}
    response = served.client.post("/v1/completions", json=body)
    assert response.status_code == 200
    assert CANARY not in response.text
    asked = sorted(messages[0]["content"] for messages, _ in served.upstream.asked)
    assert asked == ["How?", "Why?"]
    if not stream:
        reply = response.json()
        assert reply["object"] == "text_completion"
        assert [choice["text"] for choice in reply["choices"]] == ["better answer"] * 2
        return
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    events = [json.loads(line) for line in lines[:-1]]
    for index in (0, 1):
        texts = [e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == index]
        assert "".join(texts) == "better answer"


def test_a_raw_model_passes_its_answer_on() -> None:
    served = Served(*CORRECTED, answer=[Delta("raw "), Delta("answer"), Finished(by="up")])
    reply = served.chat(model="up")
    assert reply.json()["choices"][0]["message"]["content"] == CANARY
    assert reply.headers["x-aligner-outcome"] == "passthrough"
    assert reply.json()["aligner"]["reason"] == "raw"
    events = served.events(model="up")
    assert text_of(events) == CANARY
    assert len(events) == 4
    assert served.corrector.asked == []


def test_a_batch_of_corrections_keeps_its_order_and_its_failures_apart() -> None:
    served = Served(*CORRECTED)
    pairs = [{"question": "Why?", "answer": f"{n}"} for n in range(5)]
    body = served.client.post("/v1/corrections/batch", json={"pairs": pairs}).json()
    assert [one["correction"] for one in body["data"]] == ["better answer"] * 5
    assert body["usage"]["total_tokens"] == 5 * 14
    failing = Served(Failed("unavailable"), on_failure="error")
    body = failing.client.post("/v1/corrections/batch", json={"pairs": pairs[:2]}).json()
    assert [one["error"]["code"] for one in body["data"]] == ["corrector_unavailable"] * 2


def test_a_text_ends_before_a_stop_sequence() -> None:
    served = Served(*CORRECTED)
    reply = served.chat(stop=" ans").json()
    assert reply["choices"][0]["message"]["content"] == "better"
    assert served.upstream.asked[0][1].stop == (" ans",)
    assert text_of(served.events(stop=[" ans", "x"])) == "better"


# --- long streams -------------------------------------------------------------------------------


def test_a_stream_that_has_nothing_to_say_yet_says_that_it_is_alive() -> None:
    answer: list[Piece | float] = [2.0, Delta(CANARY), Finished(by="up")]
    response = Served(*CORRECTED, answer=answer, heartbeat_s=0.05).chat(stream=True)
    assert response.text.count(": keep-alive\n\n") >= 2
    assert CANARY not in response.text
    assert response.text.endswith("data: [DONE]\n\n")


def test_trouble_after_a_sign_of_life_is_an_error_event() -> None:
    served = Served(*CORRECTED, answer=[0.2, Failed("http_500")], heartbeat_s=0.05)
    events = served.events()
    assert events[-1]["error"]["code"] == "upstream_http_500"


def test_a_fault_in_the_midst_of_a_stream_is_an_error_event_without_its_text() -> None:
    class Broken(FakeCorrector):
        async def correct(self, *_: Any, **__: Any) -> AsyncGenerator[Piece]:
            yield Delta("half")
            raise RuntimeError(CANARY)

    served = Served()
    served.gateway_correctors["fixer"] = Broken()
    events = served.events()
    assert events[-1]["error"]["code"] == "internal_error"
    assert CANARY not in json.dumps(events)


# --- request ids --------------------------------------------------------------------------------


@pytest.mark.parametrize(("brought", "kept"), [("abc-123", True), ("a b", False), ("", False)])
def test_a_request_has_an_id_that_is_told_and_counted(brought: str, kept: bool) -> None:
    served = Served(*CORRECTED)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Why?"}]}
    response = served.client.post(
        "/v1/chat/completions", json=body, headers={"x-request-id": brought}
    )
    told = response.headers["x-request-id"]
    assert (told == brought) is kept
    assert [record.request_id for record in served.ledger.records] == [told]


def test_the_api_is_the_one_that_was_promised() -> None:
    """A change of this file is a change of contract, and belongs into the changelog.

    To write it anew, delete it and run this test.
    """
    described = json.dumps(Served().api.openapi(), indent=1, sort_keys=True) + "\n"
    if not GOLDEN.exists():
        GOLDEN.write_text(described, encoding="utf-8")
        pytest.fail(f"{GOLDEN} was not there and has been written; look at it and run again")
    assert described == GOLDEN.read_text(encoding="utf-8")
