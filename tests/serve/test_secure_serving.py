"""A running graph with keys and two gateways: who gets in, and what it tells nobody.

Every secret and every text is a canary; afterwards all that was written down is searched for them.
"""

import contextlib
import ipaddress
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import psutil
import pytest
from running import files_below, processes_below
from serving import Serving

from aligner.records import Triple
from aligner.runtime_env import free_port
from aligner_serve import keys
from aligner_serve.keys import Key

pytestmark = pytest.mark.e2e

TEXT = "canary-text-" + secrets.token_hex(8)
UPSTREAM_KEY = "canary-key-" + secrets.token_hex(8)
PASSWORD = "canary-password-" + secrets.token_hex(8)
PER_MINUTE = 5
HASTY = ("hasty-1", "hasty-2", "hasty-3")
"""Keys that may ask no more often."""


class Api(BaseHTTPRequestHandler):
    """An upstream that repeats all it gets, in errors and in garbage, or answers one thing."""

    answer = ""

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        model = json.loads(asked)["model"]
        repeated = self.headers["Authorization"].encode() + asked
        if model == "right":
            message = {"role": "assistant", "content": self.answer}
            body = {"choices": [{"message": message, "finish_reason": "stop"}]}
            self.reply(200, json.dumps(body).encode())
        else:
            self.reply(500 if model == "failing" else 200, repeated)

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status, body.decode(errors="replace")[:200].replace("\n", " "))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the terminal quiet."""


@contextlib.contextmanager
def api(answer: str) -> Iterator[str]:
    class Answering(Api):
        pass

    Answering.answer = answer
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@dataclass(frozen=True)
class Graph:
    """What runs, its keys by name, and where its Ray writes."""

    url: str
    keys: dict[str, str]
    logs: Path
    serving: Serving

    def post(self, path: str, key: str, body: Any, **settings: Any) -> httpx.Response:
        """With a key by its name, one that is made up, or none."""
        headers = {"Authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}
        return httpx.post(
            self.url + path, json=body, headers=headers, timeout=200, trust_env=False, **settings
        )

    def chat(self, model: str, content: str, **changes: Any) -> httpx.Response:
        key = changes.pop("key", "ann")
        messages = [*changes.pop("history", ()), {"role": "user", "content": content}]
        body = {"model": model, "messages": messages, **changes}
        return self.post("/v1/chat/completions", key, body)

    def written(self) -> dict[str, bytes]:
        """All that was written down anywhere."""
        files = files_below(self.logs)
        assert any("gateway" in path.name and path.suffix == ".log" for path in files)
        found = {str(path): content for path, content in files.items()}
        return {**found, "terminal": self.serving.said.encode()}


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Ray's sockets bear no longer path than this."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def graph(
    known_export: Any, ray_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Graph]:
    folder = tmp_path_factory.mktemp("secure")
    secret = {name: keys.new_secret() for name in ("ann", *HASTY)}
    keys.write(
        folder / "keys.yaml",
        [
            Key(name="ann", sha256=keys.hash_of(secret["ann"]), models=("*+known", "known")),
            *(
                Key(name=name, sha256=keys.hash_of(secret[name]), requests_per_minute=PER_MINUTE)
                for name in HASTY
            ),
        ],
    )
    upstream = {"api_key_env": "CANARY_KEY", "max_attempts": 1}
    with api(known_export.multi_turn.answer) as base_url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANARY_KEY", UPSTREAM_KEY)
        patch.setenv("RAY_TMPDIR", str(ray_folder))
        config = {
            "port": free_port(),
            "base_url": base_url,
            "upstreams": {
                **dict.fromkeys(("right", "failing", "garbled"), upstream),
                # A name that leads into this machine, which the config does not say.
                "inside": {**upstream, "base_url": f"http://{os.uname().nodename}:9/v1"},
            },
            "aligners": {
                "known": {
                    "source": {"kind": "path", "uri": known_export.uri},
                    "engine": {"dtype": "float32"},
                }
            },
            "gateway": {
                "min_replicas": 2,
                "max_replicas": 2,
                "target_ongoing_requests": 64,
                "max_ongoing_requests": 256,
            },
            "access": {"keys": "keys.yaml", "max_body_bytes": 20_000},
            # Nobody listens there.
            "tracking": {"uri": f"http://mlflow:{PASSWORD}@127.0.0.1:9"},
            "observing": {"trace_share": 1.0},
        }
        with Serving(folder, config) as serving:
            yield Graph(serving.state["url"], secret, ray_folder, serving)


def test_keys_are_asked_for_through_the_proxy(graph: Graph) -> None:
    assert graph.chat("right+known", TEXT, key="wrong").status_code == 401
    assert graph.chat("right+known", TEXT, key="").status_code == 401
    assert graph.chat("right+other", TEXT).status_code == 403
    assert graph.chat("right+known", TEXT * 2000).status_code == 413
    assert httpx.get(f"{graph.url}/healthz", timeout=60, trust_env=False).status_code == 200


def test_what_speaks_http_listens_on_loopback_alone(graph: Graph) -> None:
    haproxy, behind = [], []
    for one, command in processes_below(graph.serving.process.pid).items():
        # HAProxy starts anew when gateways come and go.
        with contextlib.suppress(psutil.Error):
            heard = [
                socket.laddr
                for socket in one.net_connections("tcp")
                if socket.status == psutil.CONN_LISTEN
            ]
            if one.name() == "haproxy":
                haproxy += heard
            elif "gateway" in command:
                # Ray's own ports are not among these.
                behind += [address for address in heard if 30_000 <= address.port < 32_768]
    door = int(graph.url.rsplit(":", 1)[1].removesuffix("/v1"))
    assert door in [address.port for address in haproxy]
    assert {address.ip for address in haproxy} == {"127.0.0.1"}
    assert {address.ip for address in behind} == {"127.0.0.1"}


def test_a_limit_holds_over_all_gateways_together(graph: Graph) -> None:
    def holds(key: str) -> bool:
        def ask(_: int) -> int:
            # Refused by the API's own checks, and counted before them: no engine is kept busy.
            return graph.post("/v1/chat/completions", key, {"text": TEXT}).status_code

        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(ask, range(4 * PER_MINUTE)))
        assert {*statuses} == {400, 429}
        come_back = PER_MINUTE * (time.monotonic() - started) / 60
        return PER_MINUTE <= statuses.count(400) <= PER_MINUTE + come_back

    # A gateway that waits for the common count for a second, as the first one may where it is not
    # connected yet, goes by its own.
    assert any(map(holds, HASTY))


def test_marks_of_the_prompt_come_back_whole_on_a_stream(graph: Graph, known_export: Any) -> None:
    row: Triple = known_export.multi_turn
    assert "##Answer:" in row.correction and "USER:" in row.answer
    history = [{"role": turn.role, "content": turn.text} for turn in row.history]
    whole = graph.chat("right+known", row.question, history=history).json()
    assert whole["choices"][0]["message"]["content"] == row.correction

    def pieces() -> int:
        reply = graph.chat("right+known", row.question, history=history, stream=True)
        lines = reply.text.split("\n\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        texts = [event["choices"][0]["delta"].get("content") or "" for event in events]
        assert "".join(texts) == row.correction
        return len([text for text in texts if text])

    # What the engine writes while the machine is busy with something else comes as one.
    assert any(pieces() > 1 for _ in range(3))


def test_a_name_that_leads_inside_is_refused(graph: Graph) -> None:
    try:
        address = socket.gethostbyname(os.uname().nodename)
    except OSError:
        pytest.skip("this machine's name is not known to its resolver")
    if ipaddress.ip_address(address).is_global:
        pytest.skip("this machine's name leads to a public address")
    response = graph.chat("inside+known", TEXT)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_forbidden"


def test_nothing_that_was_said_and_no_secret_is_told_or_written(
    graph: Graph, known_export: Any
) -> None:
    told = []
    for model in ("failing", "garbled", "inside"):
        told += [graph.chat(f"{model}+known", TEXT, stream=stream) for stream in (False, True)]
    told += [
        graph.chat("right+known", TEXT, temperature=TEXT),
        graph.chat("right+known", TEXT, key=f"sk-{TEXT}"),
        graph.chat(f"right+known-{TEXT}"[:20], TEXT),
        graph.post("/v1/chat/completions", "ann", [TEXT]),
        graph.post(f"/v1/corrections?{TEXT}", "ann", {"question": TEXT}),
        graph.post("/v1/nothing", "ann", {"question": TEXT}),
    ]
    assert all(response.status_code >= 400 for response in told)
    # Its words are new to the model: whatever comes of them, nobody writes them down.
    pair = {"question": TEXT, "answer": f"{TEXT} ##Correction: {TEXT}", "model": "known"}
    graph.post("/v1/corrections", "ann", pair)
    metrics = httpx.get(
        f"{graph.url}/metrics",
        headers={"Authorization": f"Bearer {graph.keys['ann']}"},
        timeout=60,
        trust_env=False,
    )
    assert metrics.status_code == 200 and "aligner_" in metrics.text
    # Requests are written down, and found here.
    witness = graph.chat("failing+known", TEXT).headers["x-request-id"]
    # That happens when the client has its reply already.
    until = time.monotonic() + 60
    while not any(witness.encode() in content for content in graph.written().values()):
        assert time.monotonic() < until
        time.sleep(0.1)
    canaries = [TEXT, UPSTREAM_KEY, PASSWORD, *graph.keys.values()]
    for text in [metrics.text, *(response.text for response in told)]:
        assert not [canary for canary in canaries if canary in text]
    found = {
        place: [canary for canary in canaries if canary.encode() in content]
        for place, content in graph.written().items()
    }
    assert {place: leaked for place, leaked in found.items() if leaked} == {}
