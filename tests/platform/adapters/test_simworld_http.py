import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from aligner.adapters.simworld_http import SimworldServer, main
from aligner.records import Question
from aligner.simworld import chat
from aligner.simworld.profiles import PROFILES, answer
from aligner.simworld.questions import training_questions
from aligner.simworld.world import World

SEED = 3
WORLD = World(SEED)
QUESTION = training_questions(WORLD, 5)[0].question


@pytest.fixture(scope="module")
def server() -> Iterator[SimworldServer]:
    with SimworldServer(SEED) as server:
        yield server


@pytest.fixture
def client(server: SimworldServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


def test_all_models_are_listed(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {*PROFILES, "teacher", "judge"}


def test_samples_differ_by_seed_and_never_by_run(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="amber", messages=[{"role": "user", "content": QUESTION}], n=3, seed=7
    )
    expected = [answer(WORLD, "amber", Question(QUESTION), sample=7 + i) for i in range(3)]
    assert [choice.message.content for choice in reply.choices] == expected
    assert reply.usage is not None
    assert reply.usage.completion_tokens == sum(len(text.split()) for text in expected)


def test_the_teacher_corrects_the_answer_before_the_request(client: openai.OpenAI) -> None:
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Idiot. I cannot say."},
        {"role": "user", "content": "Please correct it."},
    ]
    reply = client.chat.completions.create(model="teacher", messages=messages)  # type: ignore[arg-type]
    assert reply.choices[0].message.content == chat.reply(WORLD, "teacher", messages)


def test_a_stream_joins_to_the_same_text(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="amber", messages=[{"role": "user", "content": QUESTION}], stream=True
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer(WORLD, "amber", Question(QUESTION))
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_comes_at_the_pace_that_is_set() -> None:
    with (
        SimworldServer(SEED, word_s=0.02) as server,
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
    ):
        started = time.monotonic()
        stream = client.chat.completions.create(
            model="amber", messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        took = time.monotonic() - started
    assert text == answer(WORLD, "amber", Question(QUESTION))
    assert took >= 0.02 * len(text.split())


def test_an_unknown_model_is_an_openai_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"


GOOD: dict[str, Any] = {"model": "amber", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        json.dumps({**GOOD, "messages": "hello"}).encode(),
        json.dumps({**GOOD, "messages": []}).encode(),
        json.dumps({**GOOD, "messages": [{"role": "user", "content": ["x"]}]}).encode(),
        json.dumps({**GOOD, "messages": [{"role": "assistant", "content": "x"}]}).encode(),
        json.dumps({**GOOD, "model": 7}).encode(),
        json.dumps({**GOOD, "n": 1000}).encode(),
        json.dumps({**GOOD, "seed": "x"}).encode(),
        json.dumps({**GOOD, "model": "teacher"}).encode(),
    ],
)
def test_a_malformed_request_is_a_400_with_an_error_object(
    server: SimworldServer, body: bytes
) -> None:
    request = urllib.request.Request(f"{server.base_url}/chat/completions", data=body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    with caught.value as error:
        assert error.code == 400
        assert json.load(error)["error"]["type"] == "invalid_request_error"


def test_health_is_told(server: SimworldServer) -> None:
    url = server.base_url.removesuffix("/v1") + "/healthz"
    with urllib.request.urlopen(url, timeout=60) as reply:
        assert json.load(reply) == {"status": "ok", "seed": SEED}


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"port {port}" in error
    assert error.count("\n") == 1


def test_the_server_ends_with_the_block() -> None:
    with SimworldServer(0) as server:
        port = server.port
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_server_does_not_outlive_a_killed_owner() -> None:
    owner = (
        "import time\n"
        "from aligner.adapters.simworld_http import SimworldServer\n"
        "with SimworldServer(0) as server:\n"
        "    print(server.port, flush=True)\n"
        "    time.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", owner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    pytest.fail(f"something still listens on port {port}")
