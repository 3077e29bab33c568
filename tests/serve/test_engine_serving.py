"""Real engines in a real Ray Serve: two aligners on one base model, and an upstream of our own."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import keep_reports
import own_process
import pytest
import torch
from learning import learn
from ray import serve
from running import processes_below
from transformers import LlamaConfig, LlamaForCausalLM

from aligner import artefacts, exports
from aligner.adapters.hf_tokenizer import HfTokenizer, read_files, write_files
from aligner.generation import Sampling
from aligner.keeping import KeepCalibration
from aligner.manifest import provenance
from aligner.prompt import PLAIN
from aligner.records import Question, Triple
from aligner.runtime_env import free_port
from aligner.tokens import Example, encode_example
from aligner_jobs.config.adapter import Lora
from aligner_jobs.train.adapter_file import write_adapter
from aligner_jobs.train.lora import add_lora
from aligner_jobs.train.weights import write_weights
from aligner_serve import app, chat_prompt, probe, release
from aligner_serve.config.graph import GraphConfig
from aligner_serve.corrector import Corrector
from aligner_serve.handles import CorrectorHandle, UpstreamHandle
from aligner_serve.pieces import Delta, Failed, Finished, Piece

pytestmark = pytest.mark.e2e

PAIR = ("Who was the first?", "It was her.")
QUESTION, ANSWER = "What is <s>?", "A token that begins: « naïvely » 真的."
TEMPLATE = (
    "{% for one in messages %}<s>{{ one.role }}: {{ one.content }}</s>{% endfor %}<s>assistant:"
)


def export_with_adapter(base: str, folder: Path, correction: str) -> str:
    """What ``aligner train`` leaves with ``export.adapter=true``."""
    spec = Lora(kind="lora", rank=8, alpha=16.0)
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(base)
    add_lora(model, spec)
    tokenizer = HfTokenizer.load(base)
    row = Triple(*PAIR, correction)
    learn(model, [encode_example(row, template=PLAIN, tokenizer=tokenizer)])
    with artefacts.staging(str(folder)) as staging:
        write_files(read_files(Path(base)), staging.path)
        assert not write_weights(model, staging.path, shard_bytes=1 << 30, partitioned=False)
        adapter = staging.path / exports.ADAPTER
        assert not write_adapter(model, adapter, spec=spec, base=base, partitioned=False)
        fact = exports.Adapter(base=base, base_hash=exports.weights_hash(Path(base)), rank=8)
        staging.publish(
            kind="export",
            name="adapted",
            prompt=PLAIN,
            prompt_fingerprint=PLAIN.fingerprint,
            facts={exports.ADAPTER: fact.model_dump()},
            **provenance(),
        )
    return str(folder)


def chat_model(tokenizer_of: str, folder: Path) -> str:
    """A model that answers one question, in the form of a chat template of its own."""
    folder.mkdir()
    write_files(read_files(Path(tokenizer_of)), folder)
    for name in ("config.json", "generation_config.json"):
        (folder / name).unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(2)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    tokenizer = HfTokenizer.load(folder)
    prompt = chat_prompt.load(folder, where="test").encode([{"role": "user", "content": QUESTION}])
    learn(model, [Example(prompt, [*tokenizer.encode(ANSWER), tokenizer.eos_token_id])])
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def writes(known_export: Any) -> dict[str, str]:
    """What each aligner makes of :data:`PAIR`, in words that the base model has learnt."""
    return {
        "polite": known_export.corrected.correction,
        "curt": known_export.multi_turn.correction,
    }


@pytest.fixture(scope="module")
def config(
    known_export: Any, writes: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> GraphConfig:
    folder = tmp_path_factory.mktemp("models")
    sources = {
        name: {"kind": "path", "uri": export_with_adapter(known_export.uri, folder / name, text)}
        for name, text in writes.items()
    }
    engine = {"dtype": "float32", "base": known_export.uri}
    own = {"kind": "vllm", "model": chat_model(known_export.uri, folder / "chat")}
    return GraphConfig.model_validate(
        {
            "port": free_port(),
            "upstreams": {"own": {**own, "engine": {"dtype": "float32"}}},
            "aligners": {
                "polite": {"source": sources["polite"], "engine": engine},
                "curt": {
                    "source": sources["curt"],
                    "engine": {"kind": "shared", "aligner": "polite"},
                },
            },
        }
    )


class Graph:
    """The deployments with engines, without a gateway before them."""

    def __init__(self, config: GraphConfig, keep: KeepCalibration) -> None:
        released = {
            name: release.resolve(seat.source, config.tracking).model_copy(update={"keep": keep})
            for name, seat in config.seats.items()
        }
        correctors = app._correctors(config, released, probe.load_all(config), Corrector)
        assert correctors["polite"] is correctors["curt"]
        own = app._upstream(config, "own")
        assert own is not None
        # Together, as `aligner serve` does: half of the time that two engines take to start.
        handle, self.engine = serve.run_many(
            [
                serve.RunTarget(target=correctors["polite"], name="correctors", route_prefix=None),
                serve.RunTarget(target=own, name="own", route_prefix=None),
            ]
        )
        self.correctors = {name: CorrectorHandle(handle, name) for name in config.aligners}
        self.upstream = UpstreamHandle(self.engine)

    def correct(self, name: str, *, stream: bool = False) -> AsyncGenerator[Piece]:
        return self.correctors[name].correct(
            Question(PAIR[0]), PAIR[1], deadline_s=300, stream=stream
        )

    def ask(
        self, content: str = QUESTION, *, deadline_s: float = 300, **sampling: Any
    ) -> AsyncGenerator[Piece]:
        messages = [{"role": "user", "content": content}]
        return self.upstream.ask(messages, Sampling(**sampling), deadline_s=deadline_s, stream=True)

    async def queued_tokens(self) -> float:
        stats = await self.engine.record_autoscaling_stats.remote()
        return float(stats["queued_tokens"])


@pytest.fixture(scope="module")
def graph(config: GraphConfig, known_export: Any) -> Iterator[Graph]:
    # All copies are read and none is kept: they are scored with adapters, too.
    keep = keep_reports.calibration(known_export.manifest, threshold=1.0, dtype="float32")
    with own_process.ray_and_serve(config):
        yield Graph(config, keep)


async def end_of(pieces: AsyncGenerator[Piece]) -> tuple[str, Finished | Failed]:
    text = ""
    async for piece in pieces:
        if not isinstance(piece, Delta):
            return text, piece
        text += piece.text
    raise AssertionError("a stage ends with Finished or Failed")


async def until(holds: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
    limit = time.monotonic() + within_s
    while not await holds():
        assert time.monotonic() < limit
        await asyncio.sleep(0.2)


def test_one_engine_corrects_for_two_aligners_at_once(graph: Graph, writes: dict[str, str]) -> None:
    async def both() -> list[tuple[str, Finished | Failed]]:
        asked = [graph.correct(name, stream=bool(turn % 2)) for turn in range(4) for name in writes]
        return await asyncio.gather(*map(end_of, asked))

    replies = asyncio.run(both())
    assert [text for text, _ in replies] == [*writes.values()] * 4
    kept = [isinstance(end, Finished) and end.savings.kept for _, end in replies]
    assert kept == [False] * len(replies)
    by = [end.by if isinstance(end, Finished) else end.reason for _, end in replies]
    assert by[0] != by[1] and set(by) == set(by[:2])


def test_an_upstream_of_our_own_answers_in_its_own_form(graph: Graph) -> None:
    text, end = asyncio.run(end_of(graph.ask()))
    assert (text, end.by if isinstance(end, Finished) else end) == (ANSWER, "own")


def test_engines_report_their_use_to_nobody(graph: Graph) -> None:
    """That would be an actor for which the first engine of a cluster waits seconds."""
    commands = [*processes_below().values()]
    assert commands and not [one for one in commands if "TelemetryAgent" in one]


def test_its_answer_ends_where_it_is_told_to(graph: Graph) -> None:
    async def asked() -> list[tuple[str, Finished | Failed]]:
        return [
            await end_of(graph.ask(max_tokens=3)),
            await end_of(graph.ask(stop=("begins",))),
            await end_of(graph.ask("word " * 600)),
            await end_of(graph.ask(deadline_s=0.0)),
        ]

    cut, stopped, long, late = asyncio.run(asked())
    assert ANSWER.startswith(cut[0]) and isinstance(cut[1], Finished)
    assert (cut[1].finish, cut[1].usage.completion_tokens) == ("length", 3)
    assert stopped[0] == "A token that " and isinstance(stopped[1], Finished)
    assert long == ("", Failed("too_long"))
    assert late == ("", Failed("timeout"))


def test_what_nobody_waits_for_any_more_is_no_longer_worked_on(graph: Graph) -> None:
    async def seconds(*, leaving: bool) -> float:
        """Until there is no work left; who leaves does so with the first piece."""
        # Nobody taught the model what to say to that, so it writes on.
        asked = [
            graph.ask("And then?", max_tokens=400, temperature=2.0, seed=seed) for seed in range(8)
        ]
        started = time.monotonic()
        begun = await asyncio.gather(*map(anext, asked))
        assert all(isinstance(piece, Delta) for piece in begun)
        for pieces in asked:
            await (pieces.aclose() if leaving else end_of(pieces))
        while await graph.queued_tokens():
            await asyncio.sleep(0.01)
        return time.monotonic() - started

    async def is_sooner() -> bool:
        return await seconds(leaving=True) < await seconds(leaving=False) / 2

    # A tenth of the time, unless the machine is busy with something else just then.
    assert any(asyncio.run(is_sooner()) for _ in range(5))


def test_an_engine_that_dies_is_replaced_and_fails_nobody_for_long(graph: Graph) -> None:
    (replica,) = [one for one, command in processes_below().items() if "upstream-own" in command]
    below = processes_below(replica.pid).items()
    engine = next(one for one, command in below if "EngineCore" in command)

    async def answered() -> bool:
        try:
            # As the gateway does: it also ends the wait for a replica that is not there yet.
            async with asyncio.timeout(20):
                text, end = await end_of(graph.ask(deadline_s=20))
        except TimeoutError:
            return False
        assert isinstance(end, Finished) or end.reason in ("unavailable", "timeout")
        return text == ANSWER

    async def killed() -> None:
        assert await answered()
        engine.kill()
        assert not await answered()
        await until(answered, within_s=500)

    asyncio.run(killed())
