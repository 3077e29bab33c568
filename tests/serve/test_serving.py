"""``aligner serve`` as a user meets it: Ray Serve, vLLM and the official ``openai`` client."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.adapters.mlflow_tracker import MlflowTracker
from aligner.adapters.simworld_http import SimworldServer
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner.runtime_env import free_port
from aligner.tokens import encode_prompt
from aligner.tracking import TrackingConfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
_PATIENCE_S = 300.0


class Service:
    """A running ``aligner serve``."""

    def __init__(self, process: subprocess.Popen[str], state: dict[str, Any], log: Path) -> None:
        self.process = process
        self.state = state
        self.log = log
        self.client = openai.OpenAI(
            base_url=f"{state['url']}/v1", api_key="unused", timeout=60, max_retries=0
        )

    def ask(self, row: Triple, **changes: Any) -> Any:
        settings = {"model": "iron+known", **changes}
        messages: Any = [{"role": "user", "content": row.question}]
        return self.client.chat.completions.create(messages=messages, **settings)

    def correct(self, row: Triple) -> dict[str, Any]:
        body = {
            "question": row.question,
            "answer": row.answer,
            "history": [{"role": turn.role, "content": turn.text} for turn in row.history],
        }
        reply: Any = self.client.post("/corrections", body=body, cast_to=object)
        return dict(reply)


def register(export: Any, tracking: TrackingConfig) -> None:
    tracker = MlflowTracker(tracking)
    with tracker.run("train") as run:
        tags = {
            "prompt_fingerprint": export.manifest.prompt_fingerprint,
            "export_hash": export.manifest.content_hash,
        }
        version = tracker.register("known", source=export.uri, run_id=run.run_id, tags=tags)
    tracker.set_alias("known", "champion", version.version)


@pytest.fixture(scope="module")
def service(known_export: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("serve")
    tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="serve")
    register(known_export, tracking)
    sampling = {"temperature": 0.0, "seed": 0}
    with SimworldServer(seed=known_export.seed) as simworld:
        config = {
            "port": free_port(),
            "base_url": simworld.base_url,
            "upstreams": {
                "iron": {"sampling": sampling},
                # Nothing listens on the discard port of loopback.
                "dead": {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1},
            },
            "aligners": {
                "known": {
                    "source": {"kind": "registry", "model": "known"},
                    "engine": {"dtype": "float32"},
                },
            },
            "tracking": tracking.model_dump(),
        }
        # JSON is YAML.
        (folder / "graph.yaml").write_text(json.dumps(config), encoding="utf-8")
        ready = folder / "ready.json"
        log = folder / "serve.log"
        command = [sys.executable, "-m", "aligner_serve.cli", "--config", "graph.yaml"]
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, "--ready-file", str(ready)],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not ready.exists():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            service = Service(process, json.loads(ready.read_text()), log)
            with service.client:
                yield service
        finally:
            process.terminate()
            process.wait(timeout=60)


def test_it_says_what_it_serves_and_how_to_call_it(service: Service) -> None:
    assert service.state["versions"] == {"known": "models:/known/1"}
    listed = [model.id for model in service.client.models.list()]
    assert listed == service.state["models"] == ["iron+known", "dead+known"]
    said = service.log.read_text()
    assert service.state["url"] in said and "curl" in said and "OpenAI(" in said


def test_an_answer_is_corrected(service: Service, known_export: Any) -> None:
    row = known_export.corrected
    reply = service.ask(row, extra_body={"aligner": {"include_original": True}})
    assert reply.choices[0].message.content == row.correction
    assert reply.aligner["outcome"] == "corrected"
    assert reply.aligner["original"] == row.answer
    assert [one["stage"] for one in reply.aligner["stages"]] == ["upstream", "corrector"]
    assert reply.aligner["version"] == "models:/known/1"


def test_a_good_answer_is_returned_unchanged(service: Service, known_export: Any) -> None:
    reply = service.ask(known_export.unchanged)
    assert reply.choices[0].message.content == known_export.unchanged.answer
    assert reply.aligner["outcome"] == "unchanged"


def test_a_stream_carries_the_correction_alone(service: Service, known_export: Any) -> None:
    row = known_export.corrected
    *chunks, counted = service.ask(row, stream=True, stream_options={"include_usage": True})
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == row.correction
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].aligner["outcome"] == "corrected"
    assert counted.usage.completion_tokens > 0


def test_history_and_characters_of_several_bytes_arrive_whole(
    service: Service, known_export: Any
) -> None:
    row = known_export.multi_turn
    reply = service.correct(row)
    assert (reply["correction"], reply["outcome"]) == (row.correction, "corrected")


@pytest.mark.parametrize("text", ["</s>", "##Correction: ", "<s>{question}\x00 ‮"])
def test_the_engine_sees_the_very_tokens_that_training_saw(
    service: Service, known_export: Any, text: str
) -> None:
    row = Triple(f"Is {text} a question?", f"It is {text}.", "")
    tokenizer = HfTokenizer.load(known_export.uri)
    ids = encode_prompt(row.question, row.answer, template=PLAIN, tokenizer=tokenizer)
    reply = service.correct(row)
    # An untrained pair may end in a passthrough, which counts no prompt of the corrector.
    assert reply["usage"]["prompt_tokens"] in (len(ids), 0)
    assert reply["outcome"] in ("corrected", "unchanged", "passthrough")


def test_a_pair_that_does_not_fit_passes_and_is_never_cut(service: Service) -> None:
    row = Triple("Why?", "Because. " * 400, "")
    reply = service.correct(row)
    assert (reply["outcome"], reply["aligner"]["reason"]) == ("passthrough", "too_long")
    assert reply["correction"] == row.answer


def test_many_at_once_are_each_answered_with_their_own(service: Service, known_export: Any) -> None:
    rows = [known_export.corrected, known_export.unchanged] * 8
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(service.ask, rows))
    assert [reply.choices[0].message.content for reply in replies] == [
        row.correction for row in rows
    ]


def test_an_unknown_model_is_not_found(service: Service, known_export: Any) -> None:
    with pytest.raises(openai.NotFoundError, match=r"iron\+known"):
        service.ask(known_export.corrected, model="iron")


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_upstream_is_a_bad_gateway_and_nothing_else(
    service: Service, known_export: Any, stream: bool
) -> None:
    with pytest.raises(openai.InternalServerError) as error:
        service.ask(known_export.corrected, model="dead+known", stream=stream)
    assert error.value.status_code == 502
    assert error.value.code == "upstream_refused"
    assert "127.0.0.1:9" not in str(error.value)


def test_it_is_ready(service: Service) -> None:
    reply: Any = service.client.get(f"{service.state['url']}/readyz", cast_to=object)
    assert reply["status"] == "ok"


def test_a_signal_ends_everything_that_it_started(service: Service) -> None:
    started = psutil.Process(service.process.pid).children(recursive=True)
    assert any("vllm" in " ".join(child.cmdline()).lower() for child in started)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    assert "Traceback" not in service.log.read_text()
