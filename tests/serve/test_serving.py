"""``aligner serve`` as a user meets it: Ray Serve, vLLM and the official ``openai`` client."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import psutil
import pytest
from running import processes_below
from serving import Serving, point, register

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.adapters.simworld_http import SimworldServer
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner.runtime_env import free_port
from aligner.tokens import encode_prompt
from aligner.tracking import TrackingConfig

pytestmark = pytest.mark.e2e


class Service:
    """A running ``aligner serve`` with a client to it."""

    def __init__(self, serving: Serving) -> None:
        self.serving, self.state = serving, serving.state
        self.client = openai.OpenAI(
            base_url=f"{self.state['url']}/v1", api_key="unused", timeout=200, max_retries=0
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


@pytest.fixture(scope="module")
def service(known_export: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("serve")
    tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="serve")
    point("champion", register(known_export.uri, known_export.manifest, tracking), tracking)
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
        with Serving(folder, config) as serving:
            service = Service(serving)
            with service.client:
                yield service


def test_it_says_what_it_serves_and_how_to_call_it(service: Service) -> None:
    assert service.state["versions"] == {"known": "models:/known/1"}
    listed = [model.id for model in service.client.models.list()]
    assert listed == service.state["models"] == ["iron+known", "dead+known"]
    said = service.serving.said
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

    def pieces() -> int:
        *chunks, counted = service.ask(row, stream=True, stream_options={"include_usage": True})
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(texts) == row.correction
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert chunks[-1].aligner["outcome"] == "corrected"
        assert counted.usage.completion_tokens > 0
        return len([text for text in texts if text])

    # What the engine writes while the machine is busy with something else comes as one.
    assert any(pieces() > 1 for _ in range(3))


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
    process = service.serving.process
    started = processes_below(process.pid)
    assert any("vllm" in command.lower() for command in started.values())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=180) == 0
    _, alive = psutil.wait_procs([*started], timeout=60)
    assert not alive
    assert "Traceback" not in service.serving.said
