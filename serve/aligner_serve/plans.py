"""A request's way through the graph: who is asked, who corrects, and on which terms."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aligner.generation import Messages, Sampling
from aligner.records import Question
from aligner_serve.ahead import Ahead, ReadingTold, overheard
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.upstream import ApiUpstream, EngineUpstream
from aligner_serve.pieces import Delta, Finished, Piece, Reading
from aligner_serve.pipeline import Ask, Reply, Step, Terms, Trouble, respond, stream
from aligner_serve.stages import AskableCorrector, AskableUpstream


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as both stages get it."""

    question: Question
    messages: Messages


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the pipeline."""

    ask: Ask
    steps: tuple[Step, ...]
    upstream: str
    terms: Terms

    async def respond(self) -> Reply | Trouble:
        """See :func:`aligner_serve.pipeline.respond`."""
        return await respond(self.ask, self.steps, upstream=self.upstream, terms=self.terms)

    def stream(self) -> AsyncGenerator[Delta | Reply | Trouble]:
        """See :func:`aligner_serve.pipeline.stream`."""
        return stream(self.ask, self.steps, upstream=self.upstream, terms=self.terms)


class Plans:
    """Makes them, from the graph's config."""

    def __init__(
        self,
        config: GraphConfig,
        *,
        upstreams: Mapping[str, AskableUpstream],
        correctors: Mapping[str, AskableCorrector],
        read_ahead: ReadingTold,
    ) -> None:
        """``upstreams`` and ``correctors`` are those of ``config``, by name.

        ``read_ahead`` hears of what is read before it is whole.
        """
        self._config = config
        self._read_ahead = read_ahead
        self._places = {
            name: asyncio.Semaphore(aligner.prefill_ahead.max_ongoing)
            for name, aligner in config.aligners.items()
            if aligner.prefill_ahead is not None
        }
        self._upstreams = upstreams
        self._correctors = correctors

    def answer(
        self,
        asked: Asked,
        upstream: str,
        stack: Sequence[str],
        sampling: Sampling,
        *,
        stream: bool,
    ) -> Plan:
        """Ask ``upstream``, and let the aligners of ``stack`` correct what it says."""
        target = self._upstreams[upstream]
        session = uuid.uuid4().hex if self._hears(upstream, stack) else ""

        def either(deadline_s: float, *, stream: bool) -> AsyncGenerator[Piece]:
            return target.ask(asked.messages, sampling, deadline_s=deadline_s, stream=stream)

        def ask(deadline_s: float) -> AsyncGenerator[Piece]:
            if session:
                return overheard(either, self._ahead(stack[0], asked, session), deadline_s)
            # What is to be corrected is needed as a whole; only a raw answer is passed on as it
            # comes.
            return either(deadline_s, stream=stream and not stack)

        steps = tuple(self._step(name, asked, stream=stream, session=session) for name in stack)
        config = self._config
        terms = Terms(config.deadline_s, config.correction_share, sampling.stop)
        return Plan(ask, steps, upstream, terms)

    def correction(self, asked: Asked, answer: str, stack: Sequence[str]) -> Plan:
        """Let the aligners of ``stack`` correct an answer that is there."""

        async def ask(deadline_s: float) -> AsyncGenerator[Piece]:
            yield Delta(answer)
            yield Finished()

        steps = tuple(self._step(name, asked, stream=False) for name in stack)
        return Plan(ask, steps, "", Terms(self._config.deadline_s))

    def _hears(self, upstream: str, stack: Sequence[str]) -> bool:
        """Whether the first aligner of ``stack`` is to read what ``upstream`` is writing."""
        if not stack or stack[0] not in self._places:
            return False
        match self._config.upstreams[upstream]:
            case ApiUpstream(stream=streams):
                return streams
            case EngineUpstream():
                return True

    def _ahead(self, name: str, asked: Asked, session: str) -> Ahead:
        corrector, settings = self._correctors[name], self._config.aligners[name]
        assert settings.prefill_ahead is not None

        async def read(answer: str, tokens: int) -> Reading:
            return await corrector.ahead(
                asked.question,
                answer,
                tokens=tokens,
                deadline_s=settings.timeout_s,
                session=session,
            )

        return Ahead(
            read,
            settings=settings.prefill_ahead,
            chars_before=len(asked.question.question)
            + sum(len(turn.text) for turn in asked.question.history),
            places=self._places[name],
            told=partial(self._read_ahead, name),
        )

    def _step(self, name: str, asked: Asked, *, stream: bool, session: str = "") -> Step:
        corrector, settings = self._correctors[name], self._config.aligners[name]

        def correct(answer: str, deadline_s: float) -> AsyncGenerator[Piece]:
            return corrector.correct(
                asked.question, answer, deadline_s=deadline_s, stream=stream, session=session
            )

        return Step(name, correct, settings.timeout_s, settings.on_failure, settings.rounds)
