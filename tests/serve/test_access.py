"""Who is let in, over the real API with fakes behind it."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from unread import Unread

from aligner.errors import ConfigError
from aligner.generation import Messages, Sampling
from aligner.records import Question
from aligner_serve import keys
from aligner_serve.config.graph import GraphConfig
from aligner_serve.gateway import Gateway
from aligner_serve.ingress import build_api
from aligner_serve.keys import Key
from aligner_serve.pieces import Delta, Finished, Piece, Usage
from aligner_serve.quotas import Charging, Ledger
from aligner_serve.telemetry import Silent

QUESTION = {"messages": [{"role": "user", "content": "Why?"}]}
PAIR = {"question": "Why?", "answer": "Because."}


class Echo(Unread):
    """An upstream and a corrector that use 50 tokens each."""

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        yield Delta("Because.")
        yield Finished(Usage(40, 10), by="up")

    async def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        yield Delta(answer)
        yield Finished(Usage(40, 10), by="models:/fixer/1")

    async def check_health(self) -> bool:
        return True


class Clock:
    """Stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Served:
    """A gateway with ``access`` as its settings."""

    def __init__(self, access: dict[str, Any], **client: Any) -> None:
        config = GraphConfig.model_validate(
            {
                "base_url": "http://127.0.0.1:9/v1",
                "upstreams": {"up": {"raw": True}},
                "aligners": {name: {"source": {"kind": "path", "uri": "x"}} for name in "ab"},
                "access": access,
            }
        )
        self.clock = Clock()
        quotas = Ledger(self.clock)
        gateway = Gateway(
            config,
            upstreams={"up": Echo()},
            correctors={"a": Echo(), "b": Echo()},
            telemetry=Charging(Silent(), quotas),
        )
        self.api = build_api(gateway, quotas=quotas)
        self.client = TestClient(self.api, raise_server_exceptions=False, **client)

    def chat(self, key: str | None = None, model: str = "up+a", **changes: Any) -> Any:
        return self.post("/v1/chat/completions", key, {**QUESTION, "model": model, **changes})

    def post(self, path: str, key: str | None, body: Any) -> Any:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self.client.post(path, json=body, headers=headers)


class Keys:
    """A file with keys of some kinds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[Key] = []

    def add(self, name: str, **settings: Any) -> str:
        secret = keys.new_secret()
        self.all.append(Key(name=name, sha256=keys.hash_of(secret), **settings))
        keys.write(self.path, self.all)
        return secret


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Keys]:
    yield Keys(tmp_path / "keys.yaml")


def error(response: Any) -> dict[str, Any]:
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return dict(body["error"])


def test_a_good_key_is_let_in_and_no_other(ring: Keys) -> None:
    secret = ring.add("ann")
    served = Served({"keys": str(ring.path)})
    assert served.chat(secret).status_code == 200
    for wrong in (None, "", "sk-aligner-x", secret[:-1], secret + "x", secret.upper(), "\udce9"):
        sent = (wrong or "").encode("utf-8", "surrogateescape")
        headers = {} if wrong is None else {b"Authorization": b"Bearer " + sent}
        response = served.client.post(
            "/v1/chat/completions", json={**QUESTION, "model": "up+a"}, headers=headers
        )
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert error(response)["code"] == "invalid_api_key"
        assert secret[12:20] not in response.text


@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/v1/nothing", "/docs", "//v1/models", "/page", "/V1/models"]
)
def test_all_else_needs_a_key_too(ring: Keys, path: str) -> None:
    ring.add("ann")
    assert Served({"keys": str(ring.path)}).client.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/openapi.json", "/page/page.css"])
def test_health_and_what_is_the_same_everywhere_are_open(ring: Keys, path: str) -> None:
    ring.add("ann")
    assert Served({"keys": str(ring.path)}).client.get(path).status_code == 200


def test_a_key_is_good_for_its_models_alone(ring: Keys) -> None:
    secret = ring.add("ann", models=("*+a", "b"))
    served = Served({"keys": str(ring.path)})
    assert served.chat(secret, "up+a").status_code == 200
    for model in ("up+b", "up", "no-such-model"):
        response = served.chat(secret, model)
        assert (response.status_code, error(response)["code"]) == (403, "model_not_allowed")
    listed = served.client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
    assert [card["id"] for card in listed.json()["data"]] == ["up+a"]
    assert served.post("/v1/corrections", secret, {**PAIR, "model": "b"}).status_code == 200
    assert served.post("/v1/corrections", secret, {**PAIR, "model": "a"}).status_code == 403
    batch = {"pairs": [PAIR], "model": "a"}
    assert served.post("/v1/corrections/batch", secret, batch).status_code == 403
    completion = {"prompt": "Why?", "model": "up+b"}
    assert served.post("/v1/completions", secret, completion).status_code == 403


def test_a_key_ends_on_its_day(ring: Keys) -> None:
    today = datetime.now(UTC).date()
    gone = ring.add("gone", expires=today)
    good = ring.add("good", expires=today + timedelta(days=1))
    served = Served({"keys": str(ring.path)})
    assert [served.chat(key).status_code for key in (gone, good)] == [401, 200]


def test_it_does_not_start_without_the_file_that_it_was_told_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        Served({"keys": str(tmp_path / "none.yaml")})


def test_requests_per_minute_are_each_keys_own(ring: Keys) -> None:
    ann, bob = ring.add("ann", requests_per_minute=2), ring.add("bob")
    served = Served({"keys": str(ring.path), "requests_per_minute": 3})
    assert [served.chat(ann).status_code for _ in range(3)] == [200, 200, 429]
    assert [served.chat(bob).status_code for _ in range(4)] == [200, 200, 200, 429]
    response = served.chat(ann)
    assert response.headers["retry-after"] == "30"
    assert error(response)["type"] == "rate_limit_error"
    served.clock.now += 30
    assert served.chat(ann).status_code == 200
    # What makes no work is not counted.
    listed = served.client.get("/v1/models", headers={"Authorization": f"Bearer {ann}"})
    assert listed.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_per_minute_are_those_of_all_stages(ring: Keys, stream: bool) -> None:
    ann = ring.add("ann", tokens_per_minute=120)
    served = Served({"keys": str(ring.path)})
    assert [served.chat(ann, stream=stream).status_code for _ in range(3)] == [200, 200, 429]
    assert served.chat(ann).headers["retry-after"] == "41"


def test_limits_hold_for_all_together_where_no_key_is_asked_for() -> None:
    served = Served({"requests_per_minute": 1})
    assert [served.chat().status_code for _ in range(2)] == [200, 429]


def test_without_keys_other_machines_learn_nothing_but_health() -> None:
    served = Served({}, client=("192.0.2.7", 5000))
    for path in ("/v1/models", "/", "/metrics", "/openapi.json", "/v1/nothing"):
        response = served.client.get(path)
        assert (response.status_code, error(response)["code"]) == (403, "no_access")
    assert served.chat("any").status_code == 403
    assert served.client.get("/healthz").status_code == 200
    for here in ("127.0.0.1", "127.1.2.3", "::1"):
        assert Served({}, client=(here, 5000)).chat().status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "rebound.example.org:8000"}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "https://evil.example"}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "null"}, 403),
    ],
)
def test_without_keys_a_browser_is_not_sent_here_by_another_site(
    headers: dict[str, str], status: int
) -> None:
    response = Served({}).client.get("/v1/models", headers=headers)
    assert response.status_code == status


def chunked(pieces: Sequence[bytes]) -> Any:
    yield from pieces


def test_a_body_that_is_too_long_is_not_read() -> None:
    served = Served({"max_body_bytes": 1000})
    long = json.dumps({**QUESTION, "model": "up+a", "user": "x" * 1000}).encode()
    for content in (long, chunked([long[:600], long[600:]])):
        response = served.client.post("/v1/chat/completions", content=content)
        assert (response.status_code, error(response)["code"]) == (413, "too_large")
    assert served.chat(user="x" * 500).status_code == 200


def test_a_body_that_never_ends_is_given_up() -> None:
    served = Served({"body_timeout_s": 0.05})
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/chat/completions"}
    scope |= {"headers": headers, "query_string": b"", "client": ("127.0.0.1", 1)}
    asyncio.run(served.api(scope, receive, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "up+a", "messages": QUESTION["messages"] * 4}),
        ("/v1/completions", {"model": "up+a", "prompt": ["Why?"] * 4}),
        (
            "/v1/corrections",
            {**PAIR, "model": "a", "history": [{"role": "user", "content": "x"}] * 4},
        ),
        ("/v1/corrections/batch", {"model": "a", "pairs": [PAIR] * 4}),
    ],
)
def test_more_messages_than_allowed_are_refused(path: str, body: Any) -> None:
    assert Served({"max_messages": 4}).post(path, None, body).status_code == 200
    response = Served({"max_messages": 3}).post(path, None, body)
    assert (response.status_code, error(response)["type"]) == (400, "invalid_request_error")


def test_a_body_of_a_million_brackets_is_a_wrong_request() -> None:
    response = Served({}).client.post(
        "/v1/chat/completions",
        content=b"[" * 900_000,
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 400


def test_nothing_that_was_sent_is_repeated_or_logged(
    ring: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    secret, canary = ring.add("ann", models=("up+a",)), "canary-4711"
    served = Served({"keys": str(ring.path), "max_body_bytes": 2000})
    with caplog.at_level(logging.DEBUG):
        for wrong in (
            served.chat(f"sk-aligner-{canary}"),
            served.chat(secret, "up+b", user=canary),
            served.chat(secret, temperature=canary),
            served.chat(secret, messages=[{"role": canary, "content": canary}]),
            served.chat(secret, user=canary * 500),
            served.post("/v1/corrections", secret, [canary]),
            served.post("/v1/nothing", secret, {"text": canary}),
        ):
            assert wrong.status_code >= 400
            assert canary not in wrong.text and secret not in wrong.text
        assert served.chat(secret, user=canary).status_code == 200
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "asyncio"))]
    said = " ".join(str(vars(record)) for record in ours)
    assert canary not in said and secret not in said
