"""Against real servers on loopback: the simulation, and one that does what a test tells it."""

import asyncio
import contextlib
import http.server
import json
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from aligner.adapters.openai_http import OpenAIChat
from aligner.adapters.simworld_http import SimworldServer
from aligner.errors import ConfigError, EndpointError, GenerationError
from aligner.failures import failure_reason
from aligner.generation import Attempt, Completion, Endpoint, Messages, Sampling, Settle

T = TypeVar("T")
ASKED: Messages = [{"role": "user", "content": "my secret question"}]
GREEDY = Sampling()


@dataclass
class Script:
    """What the server replies, request by request; the last reply is repeated."""

    replies: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    delay_s: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    base_url: str = ""

    def says(self, status: int, body: bytes = b"{}", **headers: str) -> "Script":
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.replies.append((status, names, body))
        return self

    def completes(self, *texts: str, finish_reason: str = "stop") -> "Script":
        choices = [
            {"index": i, "message": {"role": "assistant", "content": text}}
            for i, text in enumerate(texts)
        ]
        for choice in choices:
            choice["finish_reason"] = finish_reason
        usage = {"prompt_tokens": 5, "completion_tokens": 4 * len(texts)}
        return self.says(200, json.dumps({"choices": choices, "usage": usage}).encode())


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            script.requests.append(json.loads(body))
            self._reply()

        def do_GET(self) -> None:
            script.requests.append({})
            self._reply()

        def _reply(self) -> None:
            time.sleep(script.delay_s)
            status, headers, body = script.replies[0]
            if len(script.replies) > 1:
                script.replies.pop(0)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            # A client that has stopped waiting is what some of these tests are about.
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    script.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


class Pauses:
    """Takes the place of sleeping."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def ask(
    script: Script, *, pauses: Pauses | None = None, n: int = 1, **changes: Any
) -> list[Completion]:
    endpoint = Endpoint(base_url=script.base_url, model="m", **changes)

    async def asked() -> list[Completion]:
        async with OpenAIChat(endpoint, sleep=pauses or Pauses()) as chat:
            return await chat.complete_many(ASKED, GREEDY, n=n)

    return asyncio.run(asked())


def test_a_completion_carries_its_text_and_its_counts(script: Script) -> None:
    script.completes("Hello.")
    assert ask(script) == [Completion("Hello.", "stop", prompt_tokens=5, completion_tokens=4)]
    (request,) = script.requests
    assert (request["model"], request["messages"], request["temperature"]) == ("m", ASKED, 0.0)
    assert "n" not in request


def test_several_samples_are_one_request(script: Script) -> None:
    script.completes("a", "b", "c")
    assert [completion.text for completion in ask(script, n=3)] == ["a", "b", "c"]
    assert [request.get("n") for request in script.requests] == [3]


def test_an_api_that_ignores_n_is_asked_again(script: Script) -> None:
    script.completes("a").completes("b").completes("c")
    assert [completion.text for completion in ask(script, n=3)] == ["a", "b", "c"]
    assert len(script.requests) == 3


def test_a_text_that_was_cut_says_so(script: Script) -> None:
    script.completes("Hel", finish_reason="length")
    assert ask(script)[0].finish_reason == "length"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again(script: Script, status: int) -> None:
    script.says(status).completes("at last")
    assert ask(script)[0].text == "at last"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, GenerationError),
        (422, GenerationError),
        (401, EndpointError),
        (403, EndpointError),
        (404, EndpointError),
    ],
)
def test_what_cannot_pass_is_asked_once(
    script: Script, status: int, kind: type[GenerationError]
) -> None:
    script.says(status)
    with pytest.raises(GenerationError) as caught:
        ask(script)
    assert type(caught.value) is kind
    assert failure_reason(caught.value) == f"http_{status}"
    assert len(script.requests) == 1


def test_attempts_end_at_the_limit_and_pauses_grow(script: Script) -> None:
    pauses = Pauses()
    script.says(500)
    with pytest.raises(GenerationError, match="after 4 attempts") as caught:
        ask(script, pauses=pauses, max_attempts=4)
    assert failure_reason(caught.value) == "http_500"
    assert len(script.requests) == 4
    for pause_s, longest_s in zip(pauses.seconds, [0.5, 1.0, 2.0], strict=True):
        assert longest_s / 2 <= pause_s <= longest_s


def test_retry_after_is_obeyed_in_seconds_and_as_a_date(script: Script) -> None:
    pauses = Pauses()
    script.says(429, Retry_After="7").says(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    script.completes("done")
    ask(script, pauses=pauses)
    assert pauses.seconds == [7.0, 0.0]


def test_an_api_that_closes_for_the_day_is_not_waited_for(script: Script) -> None:
    pauses = Pauses()
    script.says(429, Retry_After="86400")
    with pytest.raises(GenerationError) as caught:
        ask(script, pauses=pauses)
    assert failure_reason(caught.value) == "http_429"
    assert pauses.seconds == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "malformed"),
        (b"[]", "malformed"),
        (b'{"choices": 3}', "malformed"),
        (b'{"choices": [{"message": null}]}', "malformed"),
        (b'{"choices": []}', "no_text"),
        (b'{"choices": [{"message": {"content": null}}]}', "no_text"),
        (b'{"choices": [{"message": {"content": 7}}], "usage": 3}', "no_text"),
    ],
)
def test_a_body_that_is_no_completion_has_a_name(script: Script, body: bytes, reason: str) -> None:
    script.says(200, body)
    with pytest.raises(GenerationError) as caught:
        ask(script)
    assert failure_reason(caught.value) == reason


def test_broken_json_that_calls_itself_json_has_a_name(script: Script) -> None:
    script.says(200, b'{"choices": [{"mess', Content_Type="application/json")
    with pytest.raises(GenerationError) as caught:
        ask(script)
    assert failure_reason(caught.value) == "malformed"


def test_extensions_of_the_api_stand_beside_the_other_parameters(script: Script) -> None:
    script.completes("Hello.")
    sampling = Sampling(top_k=10, seed=3)

    async def asked() -> None:
        async with OpenAIChat(Endpoint(base_url=script.base_url, model="m")) as chat:
            await chat.complete(ASKED, sampling)

    run(asked())
    (request,) = script.requests
    assert (request["top_k"], request["seed"]) == (10, 3)
    assert "extra_body" not in request


def test_a_slow_reply_is_a_timeout(script: Script) -> None:
    script.delay_s = 0.5
    script.completes("late")
    with pytest.raises(GenerationError, match=r"within 0\.1 s") as caught:
        ask(script, timeout_s=0.1, max_attempts=2)
    assert failure_reason(caught.value) == "timeout"


def test_nobody_there_names_the_address_and_the_remedy() -> None:
    nobody = Script(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9.* start it or correct") as caught:
        ask(nobody, max_attempts=2)
    assert failure_reason(caught.value) == "refused"


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"],
)
def test_a_connection_that_breaks_is_no_endpoint_that_is_missing(said: bytes) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        writer.write(said)
        writer.close()

    async def asked() -> None:
        async with await asyncio.start_server(broken, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            endpoint = Endpoint(base_url=f"http://127.0.0.1:{port}/v1", model="m", max_attempts=2)
            async with OpenAIChat(endpoint, sleep=Pauses()) as chat:
                await chat.complete(ASKED, GREEDY)

    with pytest.raises(GenerationError) as caught:
        run(asked())
    assert failure_reason(caught.value) == "connection_lost"
    assert type(caught.value) is GenerationError


class Door:
    """Lets everything through and remembers it."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.told: list[Attempt] = []

    async def __call__(self, tokens: int) -> Settle:
        self.tokens.append(tokens)
        return self.told.append


def test_every_attempt_is_admitted_and_told_of(script: Script) -> None:
    script.says(429, Retry_After="2").says(200, b"{").completes("at last")
    door = Door()

    async def asked() -> None:
        endpoint = Endpoint(base_url=script.base_url, model="m")
        async with OpenAIChat(endpoint, admit=door, sleep=Pauses()) as chat:
            await chat.complete(ASKED, Sampling(max_tokens=100))

    run(asked())
    assert door.told == [
        Attempt("http_429", retry_after_s=2.0),
        Attempt("malformed"),
        Attempt("ok", prompt_tokens=5, completion_tokens=4),
    ]
    assert min(door.tokens) >= 100 + len(ASKED[0]["content"])


def test_a_cancelled_attempt_is_told_of(script: Script) -> None:
    script.delay_s = 0.5
    script.completes("late")
    door = Door()

    async def asked() -> None:
        async with OpenAIChat(Endpoint(base_url=script.base_url, model="m"), admit=door) as chat:
            async with asyncio.timeout(0.2):
                await chat.complete(ASKED, GREEDY)

    with pytest.raises(TimeoutError):
        run(asked())
    assert door.told == [Attempt("cancelled")]


def test_a_request_ends_at_its_deadline(script: Script) -> None:
    script.delay_s = 0.5
    script.completes("late")
    with pytest.raises(GenerationError, match=r"deadline_s=0\.2") as caught:
        ask(script, deadline_s=0.2)
    assert failure_reason(caught.value) == "deadline"


def test_a_pause_that_would_pass_the_deadline_is_not_begun(script: Script) -> None:
    pauses = Pauses()
    script.says(503, Retry_After="7")
    with pytest.raises(GenerationError) as caught:
        ask(script, pauses=pauses, deadline_s=5)
    assert failure_reason(caught.value) == "http_503"
    assert pauses.seconds == []


def test_a_key_and_a_question_stand_in_no_error(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_API_KEY", "sk-very-private")
    script.says(401, b'{"error": {"message": "bad key sk-very-private"}}')
    with pytest.raises(EndpointError) as caught:
        ask(script, api_key_env="TEST_API_KEY")
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "sk-very-private" not in str(seen)
        assert "my secret question" not in str(seen)
        seen = seen.__cause__
    assert "api_key_env" in str(caught.value)


def test_a_key_that_is_not_set_is_a_config_error(script: Script) -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        ask(script, api_key_env="NO_SUCH_KEY")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def probe(base_url: str) -> None:
    async def probed() -> None:
        async with OpenAIChat(Endpoint(base_url=base_url, model="m")) as chat:
            await chat.probe()

    run(probed())


@pytest.mark.parametrize("status", [200, 404, 429, 500])
def test_whoever_answers_passes_the_probe(script: Script, status: int) -> None:
    script.says(status)
    probe(script.base_url)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_does_not_pass_the_probe(script: Script, status: int) -> None:
    script.says(status)
    with pytest.raises(EndpointError, match="api_key_env"):
        probe(script.base_url)


def test_nobody_does_not_pass_the_probe() -> None:
    with pytest.raises(EndpointError, match="does not answer"):
        probe("http://127.0.0.1:9/v1")


def test_faults_of_the_server_do_not_change_the_answers() -> None:
    async def answers(base_url: str) -> list[str]:
        async with OpenAIChat(Endpoint(base_url=base_url, model="amber", max_attempts=10)) as chat:
            asked = [[{"role": "user", "content": f"What is the river of {x}?"}] for x in "ABCDEF"]
            results = await asyncio.gather(*(chat.complete(each, GREEDY) for each in asked))
            return [completion.text for completion in results]

    with SimworldServer(0) as good, SimworldServer(0, fault_rate=0.3) as bad:
        assert run(answers(bad.base_url)) == run(answers(good.base_url))


def test_a_base_url_with_credentials_is_refused() -> None:
    with pytest.raises(ValueError, match="api_key_env"):
        Endpoint(base_url="http://me:secret@host/v1", model="m")
