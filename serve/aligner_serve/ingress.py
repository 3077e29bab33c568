"""The HTTP API: OpenAI's routes over the gateway. Only the routes here are mounted."""

import re
import uuid
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aligner_serve import replies, responses, wire
from aligner_serve.access import Access
from aligner_serve.callers import callers_of
from aligner_serve.feedback import Feedback, FeedbackRequest, FeedbackResponse
from aligner_serve.gateway import Context, Gateway
from aligner_serve.metrics_page import CONTENT_TYPE
from aligner_serve.pieces import BUSY
from aligner_serve.pipeline import Trouble
from aligner_serve.quotas import Ledger, Quotas
from aligner_serve.seeing import Seeing
from aligner_serve.watching import Watch
from aligner_serve.web_page import add_page

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")

_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": replies.ErrorResponse, "description": description}
    for status, description in {
        400: "The request is not one of this API",
        401: "The API key is missing or not valid",
        403: "The API key may not use the model",
        404: "There is no such model or route",
        408: "The body did not arrive in time",
        413: "The body is too long",
        429: "Too many requests at once or per minute; come back after Retry-After",
        500: "A fault of the gateway",
        502: "The upstream failed, or the corrector where the policy is `error`",
        503: "Nobody is there to answer at the moment; come back after Retry-After",
        504: "A stage took longer than its limit",
    }.items()
}
_REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    status: _ERRORS[status] for status in (401, 403)
}
_EVENT: Final = {
    "description": "Of each event; `data` is a chunk as OpenAI's clients read it, or `[DONE]`",
    "type": "object",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}
_EVENT_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}}
}


async def context_of(request: Request) -> Context:
    """What the middlewares found out about ``request``; a plain function would cost a thread."""
    return Context(request.state.request_id, request.state.caller)


Known = Annotated[Context, Depends(context_of)]


def build_api(
    gateway: Gateway,
    seeing: Seeing | None = None,
    quotas: Quotas | None = None,
    *,
    behind_serve: bool = False,
) -> FastAPI:
    """The routes over ``gateway``; without ``seeing`` nothing is seen and no feedback kept.

    ``quotas`` keeps count of what callers may ask per minute; by default in this process.
    ``behind_serve`` stands Serve's proxy, which brings an id with each request and tells it.

    Raises:
        ConfigError: The file of keys is missing, or holds none.
    """
    access = gateway.config.access
    seeing = seeing or Seeing()
    api = FastAPI(
        title="Aligner gateway",
        version="1",
        description="OpenAI's API over upstreams whose answers are corrected.",
        docs_url=None,
        redoc_url=None,
    )
    _add_models(api, gateway)
    _add_feedback(api, gateway, seeing)
    _add_health(api, gateway)
    _add_metrics(api, seeing)
    add_page(api)
    _add_error_handlers(api)
    api.add_middleware(Admission, limit=gateway.config.gateway.max_ongoing_requests)
    api.add_middleware(Access, config=access, callers=callers_of(access), quotas=quotas or Ledger())
    paths = frozenset(str(getattr(route, "path", "")) for route in api.routes)
    api.add_middleware(Watch, watcher=seeing.watcher, ongoing=seeing.ongoing, routes=paths)
    api.add_middleware(RequestId, tells=not behind_serve)
    return api


def _add_models(api: FastAPI, gateway: Gateway) -> None:
    started = replies.now()

    @api.post(
        "/v1/chat/completions",
        response_model=replies.ChatResponse,
        responses={**_ERRORS, **_EVENT_STREAM},
    )
    async def chat_completions(request: wire.ChatRequest, known: Known) -> Response:
        return await gateway.chat(request, known)

    @api.post(
        "/v1/completions",
        response_model=replies.CompletionResponse,
        responses={**_ERRORS, **_EVENT_STREAM},
    )
    async def completions(request: wire.CompletionRequest, known: Known) -> Response:
        return await gateway.complete(request, known)

    @api.post("/v1/corrections", response_model=replies.CorrectionResponse, responses=_ERRORS)
    async def corrections(request: wire.CorrectionRequest, known: Known) -> Response:
        return await gateway.correct(request, known)

    @api.post("/v1/corrections/batch", response_model=replies.CorrectionList, responses=_ERRORS)
    async def correction_batch(request: wire.CorrectionBatchRequest, known: Known) -> Response:
        return await gateway.correct_batch(request, known)

    @api.get("/v1/models", responses=_REFUSED)
    async def models(known: Known) -> replies.ModelList:
        names = filter(known.who.may_use, gateway.config.served_models)
        return replies.ModelList(
            data=[replies.ModelCard(id=name, created=started) for name in names]
        )


def _add_feedback(api: FastAPI, gateway: Gateway, seeing: Seeing) -> None:
    feedback = Feedback(gateway.config, seeing.feedback)
    full = {"model": replies.ErrorResponse, "description": "There is no room for more"}

    @api.post("/v1/feedback", response_model=FeedbackResponse, responses={**_ERRORS, 507: full})
    async def give_feedback(request: FeedbackRequest, known: Known) -> Response:
        return await feedback.take(request, who=known.who)


def _add_metrics(api: FastAPI, seeing: Seeing) -> None:
    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @api.get("/metrics", response_class=Response, responses=_REFUSED | text)
    async def metrics() -> Response:
        page = b"" if seeing.metrics is None else await seeing.metrics()
        return Response(page, media_type=CONTENT_TYPE)


def _add_health(api: FastAPI, gateway: Gateway) -> None:
    @api.get("/healthz")
    async def healthz() -> replies.Health:
        return replies.Health(status="ok")

    @api.get("/readyz", responses={503: {"model": replies.Health}})
    async def readyz(response: Response) -> replies.Health:
        correctors = await gateway.readiness()
        ready = all(correctors.values())
        response.status_code = 200 if ready else 503
        return replies.Health(status="ok" if ready else "unavailable", correctors=correctors)


class RequestId:
    """Gives each request an id, its own where it brings a usable one, and tells it."""

    def __init__(self, app: ASGIApp, *, tells: bool = True) -> None:
        """Without ``tells`` somebody else tells the id that a request brings."""
        self._app = app
        self._tells = tells

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        brought = Headers(scope=scope).get(replies.REQUEST_ID_HEADER, "")
        usable = _REQUEST_ID.fullmatch(brought)
        request_id = brought if usable else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[replies.REQUEST_ID_HEADER] = request_id
            await send(message)

        told = usable and not self._tells
        await self._app(scope, receive, send if told else tell)


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
        response = responses.error(exc.status_code, str(exc.detail), None, code="unknown_url")
        # A method that is not allowed must be answered with those that are.
        response.headers.update(exc.headers or {})
        return response

    @api.exception_handler(Exception)
    async def fault(_: Request, exc: Exception) -> JSONResponse:
        return JSONResponse(responses.fault_body().model_dump(), status_code=500)
