"""KEEP with a real engine: the same corrections, with less or nothing to decode."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import own_process
import pytest
import torch
from keep_reports import calibration
from ray import serve
from transformers import AutoModelForCausalLM

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.keeping import CopyScores, KeepCalibration
from aligner.prompt import PLAIN
from aligner.records import Question, Triple
from aligner.runtime_env import free_port
from aligner.tokens import encode_prompt
from aligner_serve import app, release
from aligner_serve.config.graph import GraphConfig
from aligner_serve.corrector import Corrector
from aligner_serve.handles import CorrectorHandle
from aligner_serve.pieces import Delta, Failed, Finished, Piece, Reading, Savings
from aligner_serve.probe import Probe

pytestmark = pytest.mark.e2e

Given = tuple[Question, str]
"""A question and its answer."""
Ended = tuple[str, Finished | Failed]
"""A correction's text and its end."""

KEPT, ALWAYS, DOUBTED, PLAINLY = "kept", "always", "doubted", "plainly"
"""Aligners of one engine: with KEEP, with thresholds that all and nothing reach, and without."""


class Engine:
    """One deployment that corrects in three ways."""

    def __init__(self, config: GraphConfig, keeps: dict[str, KeepCalibration | None]) -> None:
        aligner = config.aligners[KEPT]
        released = release.resolve(aligner.source, config.tracking)
        served = {
            name: (
                released.model_copy(update={"keep": keep}).model_dump(mode="json"),
                aligner.model_dump(mode="json"),
                Probe().model_dump(mode="json"),
            )
            for name, keep in keeps.items()
        }
        corrector = app._corrector(config, config.seats[KEPT], served, Corrector)
        handle = serve.run(corrector, name="correctors", route_prefix=None)
        self._handles = {name: CorrectorHandle(handle, name) for name in keeps}

    def correct(self, name: str, given: Given, *, stream: bool = False) -> AsyncGenerator[Piece]:
        return self._handles[name].correct(*given, deadline_s=300, stream=stream)

    async def ahead(self, given: Given, answer: str, *, tokens: int = 0) -> Reading:
        question, _ = given
        return await self._handles[PLAINLY].ahead(
            question, answer, tokens=tokens, deadline_s=300, session="s"
        )

    def all_of(self, name: str, many: list[Given], *, stream: bool = False) -> list[Ended]:
        async def asked() -> list[Ended]:
            calls = [end_of(self.correct(name, given, stream=stream)) for given in many]
            return await asyncio.gather(*calls)

        return asyncio.run(asked())


@pytest.fixture(scope="module")
def engine(known_export: Any) -> Iterator[Engine]:
    thresholds = {KEPT: -0.5, ALWAYS: -1000.0, DOUBTED: 1.0}
    keeps: dict[str, KeepCalibration | None] = {
        name: calibration(known_export.manifest, threshold=threshold, dtype="float32")
        for name, threshold in thresholds.items()
    }
    keeps[PLAINLY] = None
    aligner = {
        "source": {"kind": "path", "uri": known_export.uri},
        "engine": {"dtype": "float32"},
        "sampling": {"max_tokens": 240},
        "prefill_ahead": {},
    }
    config = GraphConfig.model_validate(
        {
            "port": free_port(),
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"up": {}},
            "aligners": dict.fromkeys(keeps, aligner),
        }
    )
    with own_process.ray_and_serve(config):
        yield Engine(config, keeps)


async def end_of(pieces: AsyncGenerator[Piece]) -> Ended:
    text = ""
    async for piece in pieces:
        if not isinstance(piece, Delta):
            return text, piece
        text += piece.text
    raise AssertionError("a correction ends with Finished or Failed")


def given(row: Triple) -> Given:
    return Question(row.question, row.history), row.answer


def savings_of(end: Finished | Failed) -> Savings:
    assert isinstance(end, Finished)
    return end.savings


def told(ended: Ended) -> tuple[str, object, object]:
    """What a correction came to, but for how it was made."""
    text, end = ended
    return text, *((end.usage, end.by) if isinstance(end, Finished) else (end, None))


def test_a_known_good_answer_goes_out_without_a_step_of_decoding(
    engine: Engine, known_export: Any
) -> None:
    row = known_export.unchanged
    [(text, end)] = engine.all_of(KEPT, [given(row)])
    savings = savings_of(end)
    assert text == row.answer
    assert (savings.kept, savings.decoded_tokens, savings.decode_steps) == (True, 0, 0)
    assert savings.keep_score is not None and savings.keep_score > -0.5
    [plainly] = engine.all_of(PLAINLY, [given(row)])
    assert told(plainly) == told((text, end))
    assert savings_of(plainly[1]).kept is None


def test_an_answer_that_is_corrected_is_decoded_from_the_first_doubt_on(
    engine: Engine, known_export: Any
) -> None:
    rows = [known_export.corrected, known_export.multi_turn]
    for row, (text, end) in zip(rows, engine.all_of(KEPT, [*map(given, rows)]), strict=True):
        savings = savings_of(end)
        assert text == row.correction
        assert savings.kept is False
        assert savings.trusted_tokens > 0
        tokens = HfTokenizer.load(known_export.uri).encode(PLAIN.frame.escape(text))
        assert savings.trusted_tokens + savings.decoded_tokens == len(tokens) + 1
        assert isinstance(end, Finished) and end.usage.completion_tokens == len(tokens)


def test_what_is_read_ahead_is_read_once(engine: Engine, known_export: Any) -> None:
    row = known_export.unchanged
    # Nobody has asked this before.
    new = Question(row.question), " ".join([row.answer] * 12)

    async def grown() -> list[Reading]:
        readings = [Reading("read")]
        for share in (1, 2, 3, 4, 4):
            answer = new[1][: len(new[1]) * share // 4]
            readings.append(await engine.ahead(new, answer, tokens=readings[-1].tokens))
        return readings[1:]

    readings = asyncio.run(grown())
    assert [one.result for one in readings].count("read") >= 3
    assert (readings[-1].result, readings[-1].tokens >= 96) == ("nothing_new", True)
    assert sum(one.computed for one in readings) == readings[-1].tokens


def test_what_was_read_ahead_is_found_by_the_correction(engine: Engine, known_export: Any) -> None:
    row = known_export.corrected

    async def both() -> tuple[Reading, Ended]:
        reading = await engine.ahead(given(row), row.answer)
        return reading, await end_of(engine.correct(PLAINLY, given(row)))

    reading, (text, end) = asyncio.run(both())
    assert text == row.correction
    assert savings_of(end).cached_tokens >= reading.tokens > 0


def variants(row: Triple) -> list[Given]:
    """``row`` with other answers: cut, begun late, changed at every place, escaped and not."""
    answer, length = row.answer, len(row.answer)
    cuts = [answer[: length * part // 6] for part in range(7)]
    late = [answer[length * part // 6 :] for part in range(1, 6)]
    inserted = ["真", "🙂", "##Answer: ", "USER:", "#\\#Answer:", "</s>", "é", "\n"]
    changed = [
        answer[: length * part // 8] + inserted[part] + answer[length * part // 8 :]
        for part in range(8)
    ]
    corrected = [row.correction, row.correction.replace("真", "眞"), row.correction + " And so on."]
    answers = [*cuts, *late, *changed, *corrected, " ", "\\", "🙂" * 3, answer.upper()]
    return [(given(row)[0], one) for one in answers]


def test_every_correction_is_the_one_that_plain_decoding_gives(
    engine: Engine, known_export: Any
) -> None:
    rows = [known_export.corrected, known_export.unchanged, known_export.multi_turn]
    many = [one for row in rows for one in variants(row)]
    plainly = engine.all_of(PLAINLY, many)
    doubted = engine.all_of(DOUBTED, many)
    streamed = engine.all_of(DOUBTED, many, stream=True)
    assert [*map(told, doubted)] == [*map(told, plainly)]
    assert [*map(told, streamed)] == [*map(told, plainly)]
    decoded = [savings_of(end) for _, end in doubted if isinstance(end, Finished)]
    assert len(decoded) > len(many) // 2
    # All of the ways: decoded whole, from somewhere inside, and not at all.
    assert {bool(one.trusted_tokens) for one in decoded} == {True, False}
    assert {bool(one.decode_steps) for one in decoded} == {True, False}


def scores_of(known_export: Any, many: list[Given]) -> list[CopyScores]:
    """What Transformers thinks of the copies."""
    model = AutoModelForCausalLM.from_pretrained(known_export.uri, dtype=torch.float32)
    tokenizer = HfTokenizer.load(known_export.uri)
    found = []
    for asked, answer in many:
        prompt = encode_prompt(
            asked.question, answer, asked.history, template=PLAIN, tokenizer=tokenizer
        )
        copy = [*tokenizer.encode(PLAIN.frame.escape(answer)), tokenizer.eos_token_id]
        with torch.inference_mode():
            logits_TV = model(torch.tensor([[*prompt, *copy]])).logits[0, len(prompt) - 1 : -1]
        logprobs_TV = logits_TV.log_softmax(-1)
        chosen_T1 = logprobs_TV.gather(1, torch.tensor(copy)[:, None])
        ranks_T = (logprobs_TV >= chosen_T1).sum(-1)
        found.append(CopyScores(tuple(chosen_T1[:, 0].tolist()), tuple(ranks_T.tolist())))
    return found


def test_scores_are_those_of_the_model(engine: Engine, known_export: Any) -> None:
    rows = [known_export.corrected, known_export.unchanged, known_export.multi_turn]
    # A copy of more than 128 tokens is scored in pieces.
    long = [(given(row)[0], " ".join([row.answer] * 17)) for row in rows]
    many = [*(one for row in rows for one in variants(row)[:8] if one[1]), *long]
    expected = scores_of(known_export, many)
    assert max(len(one.ranks) for one in expected) > 128
    kept = [savings_of(end) for _, end in engine.all_of(ALWAYS, many)]
    assert [one.keep_score for one in kept] == pytest.approx(
        [one.score for one in expected], abs=2e-3
    )
    for (_, end), scores in zip(engine.all_of(DOUBTED, many), expected, strict=True):
        if isinstance(end, Finished):
            assert end.savings.trusted_tokens == scores.trusted


def test_what_is_asked_again_is_scored_again(engine: Engine, known_export: Any) -> None:
    """The engine finds a long copy in its cache, and scores nothing that it finds there."""
    question, answer = given(known_export.corrected)
    both = [given(known_export.unchanged), (question, " ".join([answer] * 11))]
    first, again = engine.all_of(ALWAYS, both), engine.all_of(ALWAYS, both)
    assert [*map(told, first)] == [*map(told, again)]
    scores = [[savings_of(end).keep_score for _, end in one] for one in (first, again)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)
    # Of a short one the end of its only block is scored at once; a long one is read as if it were
    # new, by one prefill that takes nothing from there.
    cached = [savings_of(end).cached_tokens for _, end in again]
    assert cached[0] > 0 and cached[1] == 0
