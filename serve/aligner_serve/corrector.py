"""The corrector's deployment: an engine, asked with question and answer.

Prompt, tokenizer and weights come from one verified export, so they cannot disagree. The engine
gets token ids and gives token ids back: a special token's name in a user's text stays text, and
what is decoded is exactly what training encoded.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.answer_marks import marks_of_all
from aligner.frame import Frame
from aligner.keeping import KeepCalibration
from aligner.prompt import PromptTemplate
from aligner.records import Question
from aligner.tokens import Tokenizer, encode_begun_prompt, encode_prompt
from aligner_serve import adapters, probe, release
from aligner_serve.begun import read_ahead
from aligner_serve.config.aligner import AlignerConfig, OwnEngine
from aligner_serve.engine_replica import EngineReplica
from aligner_serve.engines import MODEL, Decoded, Decoding, Engine
from aligner_serve.keeping import NOT_LOOKED, Looked, is_plainly_greedy, look
from aligner_serve.pieces import (
    CUT_SHORT,
    NOTHING_SAVED,
    TOO_LONG,
    UNAVAILABLE,
    Delta,
    Failed,
    Finished,
    Piece,
    Reading,
    Savings,
    Usage,
    gathered,
)

Served = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""One aligner as plain data: a ``Release``, an ``AlignerConfig`` and a ``Probe``, all dumped."""


@dataclass(frozen=True, slots=True)
class _Aligner:
    """One aligner of this replica: what is its own, whosever engine decodes for it."""

    version: str
    config: AlignerConfig
    keep: KeepCalibration | None
    weights: release.Weights
    template: PromptTemplate
    tokenizer: HfTokenizer

    @classmethod
    def open(
        cls, released: Mapping[str, Any], aligner: Mapping[str, Any], *, cache: str
    ) -> "_Aligner":
        """Fetch and verify its export: only here it is known which machine needs it."""
        version = release.Release.model_validate(released)
        weights = release.fetch(version, cache=cache)
        return cls(
            version=version.version,
            config=AlignerConfig.model_validate(aligner),
            keep=version.keep,
            weights=weights,
            template=weights.manifest.require_fingerprint(where=version.version),
            tokenizer=HfTokenizer.load(weights.folder),
        )


class Corrector(EngineReplica):
    """One replica with one engine, which decodes for one aligner or, by adapters, for several."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        served: dict[str, Served],
        cache: str,
        *,
        engine: Callable[..., Engine] = Engine,
    ) -> None:
        """``served`` are the aligners by name; how the engine is set up is said by the first.

        ``engine`` makes it.

        Raises:
            DataError: An export is not to be had, or a file differs from its manifest.
            ContractMismatch: An adapter was trained on another model than the engine's, or scores
                were calibrated in another dtype.
            GateRefused: A version does not pass its probe.
        """
        self._aligners = {
            name: _Aligner.open(released, aligner, cache=cache)
            for name, (released, aligner, _) in served.items()
        }
        first = next(iter(self._aligners.values()))
        settings = first.config.engine
        assert isinstance(settings, OwnEngine)
        self._context = min(
            release.require_context(one.weights, settings.max_model_len_tokens)
            for one in self._aligners.values()
        )
        for one in self._aligners.values():
            release.require_dtype(one.keep, one.weights, settings, where=one.version)
        folder, added = first.weights.folder, dict[str, Path]()
        if settings.base is not None:
            folder = adapters.base_folder(settings.base, cache=cache)
            exports = {one.version: one.weights for one in self._aligners.values()}
            added = adapters.folders(exports, base=folder)
        self._engine = engine(
            folder,
            settings,
            context_tokens=self._context,
            num_cpus=first.config.scaling.num_cpus,
            adapters=added,
            marks=marks_of_all((one.template, one.tokenizer) for one in self._aligners.values()),
            scores=any(one.keep is not None for one in self._aligners.values()),
        )
        await self._engine.start()
        for name, (_, _, examined) in served.items():
            await self._examine(name, probe.Probe.model_validate(examined))

    async def correct(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """Decode one correction; without ``stream`` its text comes as a single delta."""
        clock = asyncio.get_running_loop().time
        until = clock() + deadline_s
        one = self._aligners[aligner]
        prompt = encode_prompt(
            question.question,
            answer,
            question.history,
            template=one.template,
            tokenizer=one.tokenizer,
        )
        copy = one.tokenizer.encode(one.template.frame.escape(answer))
        room = release.room_tokens(
            prompt=len(prompt),
            answer=len(copy),
            context=self._context,
            max_tokens=one.config.sampling.max_tokens,
            headroom_ratio=one.config.headroom_ratio,
        )
        if room is None:
            yield Failed(TOO_LONG)
            return
        looked: Looked | Failed = NOT_LOOKED
        # White space alone is no correction: such an answer is not to be kept.
        if answer.strip():
            looked = await self._look(one, prompt, copy, deadline_s=until - clock())
        if isinstance(looked, Failed):
            yield looked
            return
        if looked.unchanged:
            yield Delta(answer)
            yield Finished(Usage(len(prompt), len(copy)), by=one.version, savings=looked.savings)
            return
        work = Decoding(
            prompt,
            max_tokens=room,
            # Most of an answer is copied.
            expected_tokens=len(copy) + 1,
            sampling=one.config.sampling,
            end_ids=(one.tokenizer.eos_token_id,),
            model=self._model(one),
            text=False,
            begun=tuple(copy[: looked.savings.trusted_tokens]),
        )
        correction = correction_of(
            self._engine.decode(work, deadline_s=until - clock(), stream=stream),
            tokenizer=one.tokenizer,
            frame=one.template.frame,
            version=one.version,
            prompt_tokens=len(prompt),
            looked=looked.savings,
        )
        async with aclosing(correction) as pieces:
            async for piece in pieces:
                yield piece

    async def correct_whole(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float
    ) -> list[Piece]:
        """All that :meth:`correct` gives without ``stream``."""
        return await gathered(
            self.correct(aligner, question, answer, deadline_s=deadline_s, stream=False)
        )

    async def ahead(
        self, aligner: str, question: Question, answer: str, *, tokens: int, deadline_s: float
    ) -> Reading:
        """Read a prompt whose answer is still being written, unless there is too much to do."""
        one = self._aligners[aligner]
        settings = one.config.prefill_ahead
        if settings is None or self._engine.queued_tokens > settings.max_queued_tokens:
            return Reading("loaded", tokens)
        begun = encode_begun_prompt(
            question.question,
            answer,
            question.history,
            template=one.template,
            tokenizer=one.tokenizer,
        )
        return await read_ahead(
            self._engine,
            begun[: self._context - 1],
            tokens=tokens,
            model=self._model(one),
            deadline_s=deadline_s,
        )

    async def _look(
        self, one: _Aligner, prompt: list[int], copy: list[int], *, deadline_s: float
    ) -> Looked | Failed:
        """Read the copy and EOS behind the prompt, where that is wanted and fits."""
        whole = [*prompt, *copy, one.tokenizer.eos_token_id]
        # The engine writes a token behind whatever it reads.
        if one.keep is None or len(whole) + 1 > self._context:
            return NOT_LOOKED
        read = self._engine.read(
            whole, deadline_s=deadline_s, model=self._model(one), scored_from=len(prompt)
        )
        return await look(read, calibration=one.keep, greedy=is_plainly_greedy(one.config.sampling))

    def _model(self, one: _Aligner) -> str:
        """What the engine calls its weights."""
        return one.version if one.version in self._engine.adapters else MODEL

    async def _examine(self, name: str, examined: probe.Probe) -> None:
        one = self._aligners[name]

        def correct(question: Question, answer: str) -> AsyncGenerator[Piece]:
            limit_s = one.config.timeout_s
            return self.correct(name, question, answer, deadline_s=limit_s, stream=False)

        await probe.examine(correct, examined, version=one.version)


async def correction_of(
    decoded: AsyncGenerator[Decoded | Failed],
    *,
    tokenizer: Tokenizer,
    frame: Frame,
    version: str,
    prompt_tokens: int,
    looked: Savings = NOTHING_SAVED,
) -> AsyncGenerator[Piece]:
    """Text from tokens, as training made tokens from text; ``looked`` is what went before."""
    clock = asyncio.get_running_loop().time
    began, first_ms = clock(), None
    ids: list[int] = []
    sent, steps, cached, finish = 0, 0, 0, None
    async with aclosing(decoded):
        async for chunk in decoded:
            if isinstance(chunk, Failed):
                yield chunk
                return
            first_ms = first_ms or 1000 * (clock() - began)
            finish, steps, cached = chunk.finish, steps + chunk.steps, cached + chunk.cached_tokens
            ids += [i for i in chunk.ids if i != tokenizer.eos_token_id]
            written = tokenizer.decode(ids)
            # A character of several bytes may be half there.
            if not finish and written.endswith("\N{REPLACEMENT CHARACTER}"):
                continue
            text = frame.unescape(written) if finish else frame.settled(written)
            if len(text) > sent:
                yield Delta(text[sent:])
                sent = len(text)
    if finish == "stop":
        savings = replace(
            looked,
            # The end counts: the engine wrote it, too.
            decoded_tokens=len(ids) + 1 - looked.trusted_tokens,
            decode_steps=steps,
            # Who has looked finds again what looking has read.
            cached_tokens=cached if looked.kept is None else looked.cached_tokens,
            first_token_ms=looked.keep_ms + (first_ms or 0.0),
        )
        yield Finished(Usage(prompt_tokens, len(ids)), by=version, savings=savings)
    else:
        yield Failed(CUT_SHORT if finish == "length" else UNAVAILABLE)
