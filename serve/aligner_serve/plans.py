"""A request's way through the graph: who is asked, who corrects, and on which terms."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from aligner.generation import Messages, Sampling
from aligner.records import Turn
from aligner_serve.config.graph import GraphConfig
from aligner_serve.pieces import Delta, Finished, Piece
from aligner_serve.pipeline import Ask, Reply, Step, Terms, Trouble, respond, stream
from aligner_serve.stages import AskableCorrector, AskableUpstream


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as both stages get it."""

    question: str
    history: tuple[Turn, ...]
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
    ) -> None:
        """``upstreams`` and ``correctors`` are those of ``config``, by name."""
        self._config = config
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

        def ask(deadline_s: float) -> AsyncGenerator[Piece]:
            # What is to be corrected is needed as a whole; only a raw answer is passed on as it
            # comes.
            return target.ask(
                asked.messages, sampling, deadline_s=deadline_s, stream=stream and not stack
            )

        steps = tuple(self._step(name, asked, stream=stream) for name in stack)
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

    def _step(self, name: str, asked: Asked, *, stream: bool) -> Step:
        corrector, settings = self._correctors[name], self._config.aligners[name]

        def correct(answer: str, deadline_s: float) -> AsyncGenerator[Piece]:
            return corrector.correct(
                asked.question, answer, asked.history, deadline_s=deadline_s, stream=stream
            )

        return Step(name, correct, settings.timeout_s, settings.on_failure, settings.rounds)
