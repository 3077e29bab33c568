"""The gateway: OpenAI's HTTP API over the pipeline. Only the routes here are mounted."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol, assert_never

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from aligner.generation import Messages, Sampling
from aligner.metrics import similarity
from aligner.records import Turn
from aligner_serve import wire
from aligner_serve.config import GraphConfig
from aligner_serve.pipeline import (
    BUSY,
    TIMEOUT,
    Answered,
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
_RETRY_AFTER_S: Final = 1
_MAX_COMPARED_CHARS: Final = 20_000
"""Comparing two texts takes time by the product of their lengths; longer ones go without."""

_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": wire.ErrorResponse, "description": description}
    for status, description in {
        400: "The request is not one of this API",
        404: "There is no such model or route",
        429: "Too many requests at once; come back after Retry-After",
        500: "A fault of the gateway",
        502: "The upstream failed, or the corrector where the policy is `error`",
        504: "A stage took longer than its limit",
    }.items()
}
_EVENT_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


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
            return _error(400, f"max_tokens is more than the {limit} allowed here", "max_tokens")
        asked = self._upstreams[upstream]

        async def ask() -> Answered | Failed:
            return await asked.ask(request.upstream_messages, sampling)

        if request.stream:
            return await self._stream(request, ask, upstream)
        end = await respond(ask, self._correction(request, stream=False), terms=self._terms)
        self._telemetry.ended(end, upstream=upstream)
        if isinstance(end, Trouble):
            return _trouble(end)
        report = self._report(end, upstream, original=request.aligner.include_original)
        blocked = end.outcome == "blocked"
        message = wire.ReplyMessage(
            content=None if blocked else end.text, refusal=_REFUSAL if blocked else None
        )
        finish: wire.FinishReason = "content_filter" if blocked else "stop"
        return _reply(
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
            return _trouble(end)
        return _reply(
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

    async def _stream(self, request: wire.ChatRequest, ask: Any, upstream: str) -> Response:
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
            return _trouble(first)
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
                yield wire.event(_trouble_body(current).model_dump())
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
        return _error(404, message, "model", code="model_not_found")


def build_api(gateway: Gateway) -> FastAPI:
    """The routes over ``gateway``."""
    api = FastAPI(
        title="Aligner gateway",
        version="1",
        description="OpenAI's chat API over upstreams whose answers are corrected.",
        docs_url=None,
        redoc_url=None,
    )
    started = wire.now()

    @api.post(
        "/v1/chat/completions",
        response_model=wire.ChatResponse,
        responses={**_ERRORS, **_EVENT_STREAM},
    )
    async def chat_completions(request: wire.ChatRequest) -> Response:
        return await gateway.chat(request)

    @api.post("/v1/corrections", response_model=wire.CorrectionResponse, responses=_ERRORS)
    async def corrections(request: wire.CorrectionRequest) -> Response:
        return await gateway.correct(request)

    @api.get("/v1/models")
    async def models() -> wire.ModelList:
        names = gateway.config.served_models
        return wire.ModelList(data=[wire.ModelCard(id=name, created=started) for name in names])

    @api.get("/healthz")
    async def healthz() -> wire.Health:
        return wire.Health(status="ok", version=gateway.version)

    @api.get("/readyz", responses={503: {"model": wire.Health}})
    async def readyz(response: Response) -> wire.Health:
        ready = await gateway.is_ready()
        response.status_code = 200 if ready else 503
        return wire.Health(status="ok" if ready else "unavailable", version=gateway.version)

    _add_error_handlers(api)
    return api


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, exc: RequestValidationError) -> JSONResponse:
        error = exc.errors()[0]
        place = ".".join(str(part) for part in error["loc"] if part != "body")
        reason = str(error["msg"]).removeprefix("Value error, ")
        # What was sent is not repeated: it may be long, and it may be private.
        return _error(400, f"{place or 'the body'}: {reason}", place or None)

    @api.exception_handler(HTTPException)
    async def refused(_: Request, exc: HTTPException) -> JSONResponse:
        return _error(exc.status_code, str(exc.detail), None, code="unknown_url")

    @api.exception_handler(Exception)
    async def fault(_: Request, exc: Exception) -> JSONResponse:
        return _error(500, "the gateway failed; see its log", None, code="internal_error")


def _reply(body: wire.ChatResponse | wire.CorrectionResponse, end: Reply) -> JSONResponse:
    content = body.model_dump(mode="json")
    # Fields of OpenAI's that are null stay, as its clients expect; our own are left out.
    content["aligner"] = body.aligner.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, headers={wire.OUTCOME_HEADER: end.outcome})


def _trouble(end: Trouble) -> JSONResponse:
    status = {BUSY: 429, TIMEOUT: 504}.get(end.reason, 502)
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 429 else None
    return JSONResponse(_trouble_body(end).model_dump(), status_code=status, headers=headers)


def _trouble_body(end: Trouble) -> wire.ErrorResponse:
    kind = "rate_limit_error" if end.reason == BUSY else "server_error"
    return wire.ErrorResponse(
        error=wire.ErrorDetail(
            message=f"the {end.stage} failed ({end.reason})",
            type=kind,
            code=f"{end.stage}_{end.reason}",
        )
    )


def _error(
    status: int, message: str, param: str | None, *, code: str = "invalid_request"
) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    detail = wire.ErrorDetail(message=message, type=kind, param=param, code=code)
    return JSONResponse(wire.ErrorResponse(error=detail).model_dump(), status_code=status)
