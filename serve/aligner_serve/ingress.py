"""The HTTP API: OpenAI's routes over the gateway. Only the routes here are mounted."""

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from aligner_serve import responses, wire
from aligner_serve.gateway import Gateway
from aligner_serve.pipeline import BUSY, Trouble

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
    api.add_middleware(Admission, limit=gateway.config.gateway.max_ongoing_requests)
    return api


class Admission:
    """Turns away what is more than one gateway replica should work on at once.

    Serve would do that too, but with a plain text that OpenAI's clients do not understand.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        """At most ``limit`` requests for models at once; health is always told."""
        self._app = app
        self._limit = limit
        self._ongoing = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, a stream to its last byte."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        if self._ongoing >= self._limit:
            await responses.trouble(Trouble("gateway", BUSY))(scope, receive, send)
            return
        self._ongoing += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._ongoing -= 1


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, exc: RequestValidationError) -> JSONResponse:
        error = exc.errors()[0]
        place = ".".join(str(part) for part in error["loc"] if part != "body")
        reason = str(error["msg"]).removeprefix("Value error, ")
        # What was sent is not repeated: it may be long, and it may be private.
        return responses.error(400, f"{place or 'the body'}: {reason}", place or None)

    @api.exception_handler(HTTPException)
    async def refused(_: Request, exc: HTTPException) -> JSONResponse:
        return responses.error(exc.status_code, str(exc.detail), None, code="unknown_url")

    @api.exception_handler(Exception)
    async def fault(_: Request, exc: Exception) -> JSONResponse:
        return responses.error(500, "the gateway failed; see its log", None, code="internal_error")
