"""What the gateway's routes do: a request of the API through the pipeline and back."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Protocol, assert_never

from fastapi.responses import JSONResponse, Response, StreamingResponse

from aligner.generation import Messages, Sampling
from aligner.metrics import similarity
from aligner.records import Turn
from aligner_serve import responses, wire
from aligner_serve.config import GraphConfig
from aligner_serve.pipeline import (
    Answered,
    Ask,
    Correct,
    Delta,
    Failed,
    Finished,
    Reply,
    Terms,
    Trouble,
    respond,
    stream,
)
from aligner_serve.telemetry import Telemetry

_REFUSAL: Final = "The answer was withheld because it could not be corrected."
_MAX_COMPARED_CHARS: Final = 20_000
"""Comparing two texts takes time by the product of their lengths; longer ones go without."""


class AskableUpstream(Protocol):
    """What the gateway needs of an upstream."""

    async def ask(self, messages: Messages, sampling: Sampling) -> Answered | Failed:
        """One answer."""


class AskableCorrector(Protocol):
    """What the gateway needs of a corrector."""

    def correct(
        self, question: str, answer: str, history: Sequence[Turn], *, stream: bool
    ) -> AsyncGenerator[Delta | Finished | Failed]:
        """One correction."""

    async def check_health(self) -> bool:
        """Whether it can correct now."""


class Gateway:
    """What the routes do."""

    def __init__(
        self,
        config: GraphConfig,
        *,
        version: str,
        upstreams: Mapping[str, AskableUpstream],
        corrector: AskableCorrector,
        telemetry: Telemetry,
    ) -> None:
        """``version`` is the aligner's; ``upstreams`` are those of ``config``, by name."""
        self.config = config
        self.version = version
        self._upstreams = upstreams
        self._corrector = corrector
        self._telemetry = telemetry
        self._terms = Terms(
            deadline_s=config.deadline_s,
            correction_timeout_s=config.aligner.timeout_s,
            on_failure=config.aligner.on_failure,
        )

    async def chat(self, request: wire.ChatRequest) -> Response:
        """``/v1/chat/completions``, plain or streamed."""
        upstream = self.config.served_models.get(request.model)
        if upstream is None:
            return self._unknown_model(request.model)
        settings = self.config.upstreams[upstream]
        sampling = request.sampling(settings.sampling)
        if sampling.max_tokens > settings.max_tokens_limit:
            limit = settings.max_tokens_limit
            return responses.error(
                400, f"max_tokens is more than the {limit} allowed here", "max_tokens"
            )
        asked = self._upstreams[upstream]

        async def ask() -> Answered | Failed:
            return await asked.ask(request.upstream_messages, sampling)

        if request.stream:
            return await self._stream(request, ask, upstream)
        end = await respond(ask, self._correction(request, stream=False), terms=self._terms)
        self._telemetry.ended(end, upstream=upstream)
        if isinstance(end, Trouble):
            return responses.trouble(end)
        report = self._report(end, upstream, original=request.aligner.include_original)
        blocked = end.outcome == "blocked"
        message = wire.ReplyMessage(
            content=None if blocked else end.text, refusal=_REFUSAL if blocked else None
        )
        finish: wire.FinishReason = "content_filter" if blocked else "stop"
        return responses.reply(
            wire.ChatResponse(
                id=wire.new_id("chatcmpl"),
                created=wire.now(),
                model=request.model,
                choices=[wire.Choice(message=message, finish_reason=finish)],
                usage=wire.usage_report(end.usage),
                aligner=report,
            ),
            end,
        )

    async def correct(self, request: wire.CorrectionRequest) -> Response:
        """``/v1/corrections``."""
        name = self.config.aligner.name
        if request.model not in (None, name):
            return self._unknown_model(str(request.model))

        async def ask() -> Answered | Failed:
            return Answered(request.answer)

        def correction(answer: str) -> AsyncGenerator[Delta | Finished | Failed]:
            return self._corrector.correct(request.question, answer, request.turns, stream=False)

        end = await respond(ask, correction, terms=self._terms)
        end.seconds.pop("upstream", None)
        self._telemetry.ended(end, upstream="")
        if isinstance(end, Trouble):
            return responses.trouble(end)
        return responses.reply(
            wire.CorrectionResponse(
                id=wire.new_id("corr"),
                created=wire.now(),
                model=name,
                correction=None if end.outcome == "blocked" else end.text,
                outcome=end.outcome,
                usage=wire.usage_report(end.usage),
                aligner=self._report(end, None, original=False),
            ),
            end,
        )

    async def is_ready(self) -> bool:
        """Whether a request would find a corrector."""
        return await self._corrector.check_health()

    async def _stream(self, request: wire.ChatRequest, ask: Ask, upstream: str) -> Response:
        """Wait for the first event: what fails before it is still an HTTP status."""
        events = stream(ask, self._correction(request, stream=True), terms=self._terms)
        try:
            first = await anext(events)
        except BaseException:
            await events.aclose()
            raise
        if isinstance(first, Trouble):
            await events.aclose()
            self._telemetry.ended(first, upstream=upstream)
            return responses.trouble(first)
        # The outcome of a correction that has only begun is told by the last event.
        known = {wire.OUTCOME_HEADER: first.outcome} if isinstance(first, Reply) else {}
        return StreamingResponse(
            self._events(request, first, events, upstream),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", **known},
        )

    async def _events(
        self,
        request: wire.ChatRequest,
        first: Delta | Reply,
        events: AsyncGenerator[Delta | Reply | Trouble],
        upstream: str,
    ) -> AsyncGenerator[bytes]:
        chunks = wire.Chunks(request.model)
        yield chunks.role()
        current: Delta | Reply | Trouble = first
        sent = False
        async with aclosing(events):
            while isinstance(current, Delta):
                yield chunks.text(current.text)
                sent = True
                current = await anext(events)
        self._telemetry.ended(current, upstream=upstream)
        match current:
            case Trouble():
                # Half a correction has left; it is called a failure, not patched.
                yield wire.event(responses.trouble_body(current).model_dump())
            case Reply():
                if current.outcome == "blocked":
                    yield chunks.refusal(_REFUSAL)
                elif not sent:
                    yield chunks.text(current.text)
                report = self._report(current, upstream, original=request.aligner.include_original)
                counted = request.stream_options and request.stream_options.include_usage
                finish: wire.FinishReason = (
                    "content_filter" if current.outcome == "blocked" else "stop"
                )
                yield chunks.last(finish, report, current.usage if counted else None)
            case _:
                assert_never(current)
        yield wire.DONE

    def _correction(self, request: wire.ChatRequest, *, stream: bool) -> Correct:
        def correction(answer: str) -> AsyncGenerator[Delta | Finished | Failed]:
            return self._corrector.correct(request.question, answer, request.history, stream=stream)

        return correction

    def _report(self, end: Reply, upstream: str | None, *, original: bool) -> wire.AlignerReport:
        alike = None
        if max(len(end.text), len(end.answer)) <= _MAX_COMPARED_CHARS and end.outcome != "blocked":
            alike = round(similarity(end.answer, end.text), 4)
        # A withheld answer is withheld from those who ask for the original, too.
        shown = original and end.outcome != "blocked"
        return wire.AlignerReport(
            outcome=end.outcome,
            reason=end.reason,
            upstream=upstream,
            version=self.version,
            similarity=alike,
            seconds={stage: round(value, 4) for stage, value in end.seconds.items()},
            original=end.answer if shown else None,
        )

    def _unknown_model(self, model: str) -> JSONResponse:
        known = ", ".join([*self.config.served_models, self.config.aligner.name])
        message = f"the model {model[:100]!r} does not exist; there are: {known}"
        return responses.error(404, message, "model", code="model_not_found")
