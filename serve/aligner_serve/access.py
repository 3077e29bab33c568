"""The middleware before everything else: who asks, whether they may now, and with how much.

What is turned away here has cost a look at its headers; no route has run, and no byte of a body
was parsed. Nothing that was sent is repeated in an error or a log.
"""

import asyncio
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aligner_serve import replies
from aligner_serve.callers import Caller, Callers
from aligner_serve.config.access import AccessConfig
from aligner_serve.quotas import Quotas, whole_seconds

_HEALTH: Final = frozenset({"/healthz", "/readyz"})
"""Asked by machines that have no key and may come from anywhere; they tell which correctors are up,
and nothing else."""

_PUBLIC: Final = frozenset({"/", "/openapi.json"})
_PAGE: Final = "/page/"
"""Files that are the same everywhere; what the page shows it asks for with a key."""


class Access:
    """Lets a request through to ``app`` with its caller in the state, or says why not."""

    def __init__(
        self, app: ASGIApp, *, config: AccessConfig, callers: Callers, quotas: Quotas
    ) -> None:
        """``quotas`` keeps count of what ``callers`` may ask per minute."""
        self._app = app
        self._config = config
        self._callers = callers
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http" or scope["path"] in _HEALTH:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        found = self._identify(scope, headers)
        if isinstance(found, Caller):
            scope.setdefault("state", {})["caller"] = found
            refusal = await self._count(scope, found) or self._too_long(headers)
        else:
            refusal = found
        if refusal is None and scope["method"] not in ("GET", "HEAD"):
            body = await self._body(receive)
            if body is None:
                return
            if isinstance(body, bytes):
                receive = _replayed(body, receive)
            else:
                refusal = body
        await (refusal or self._app)(scope, receive, send)

    def _identify(self, scope: Scope, headers: Headers) -> Caller | JSONResponse:
        if not self._callers.need_keys and (reason := _is_foreign(scope, headers)):
            return refused(403, f"{reason}; set access.keys to let others in", "no_access")
        secret = _secret(headers)
        caller = self._callers.find(secret)
        if caller is not None:
            return caller
        if scope["path"] in _PUBLIC or scope["path"].startswith(_PAGE):
            return Caller(models=())
        said = "no API key was sent" if secret is None else "the API key is not valid"
        message = f"{said}; send a key of this gateway as `Authorization: Bearer KEY`"
        return refused(401, message, "invalid_api_key", **{"WWW-Authenticate": "Bearer"})

    async def _count(self, scope: Scope, caller: Caller) -> JSONResponse | None:
        """Only what makes work is counted."""
        if scope["method"] != "POST" or not caller.limits.are_set:
            return None
        wait_s = await self._quotas.admit(caller.name, caller.limits)
        if not wait_s:
            return None
        seconds = whole_seconds(wait_s)
        return refused(
            429,
            f"the limit per minute is reached; come back in {seconds} s",
            "rate_limit_exceeded",
            **{"Retry-After": str(seconds)},
        )

    def _too_long(self, headers: Headers) -> JSONResponse | None:
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._config.max_body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> JSONResponse:
        limit = self._config.max_body_bytes
        return refused(413, f"the body is longer than the {limit} bytes allowed here", "too_large")

    async def _body(self, receive: Receive) -> bytes | JSONResponse | None:
        """The whole body, why it is refused, or nothing where the client has gone."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._config.max_body_bytes:
                        return self._too_large()
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            limit_s = self._config.body_timeout_s
            return refused(408, f"the body did not arrive within {limit_s:g} s", "body_timeout")


def refused(status: int, message: str, code: str, **headers: str) -> JSONResponse:
    """OpenAI's error object."""
    kinds = {403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error")
    detail = replies.ErrorDetail(message=message, type=kind, code=code)
    body = replies.ErrorResponse(error=detail).model_dump()
    return JSONResponse(body, status_code=status, headers=headers)


def _secret(headers: Headers) -> str | None:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None


def _is_foreign(scope: Scope, headers: Headers) -> str:
    """Why a request without a key was not made by a program on this machine, or nothing.

    A browser here can be sent by any site: it then names that site, as ``Origin`` or, where the
    site's name was made to lead here, as ``Host``.
    """
    if not _is_here(scope):
        return "without keys, only programs on the gateway's own machine are answered"
    host, origin = headers.get("host", ""), headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return "without keys, pages of other sites are not answered"
    name = urlsplit(f"//{host}").hostname or ""
    if "." in name and not _is_address(name):
        return "without keys, only addresses and names without a dot are answered as Host"
    return ""


def _is_here(scope: Scope) -> bool:
    """A peer without an address is no connection at all, but a call in this process."""
    peer = (scope.get("client") or ("", 0))[0]
    return not _is_address(peer) or ipaddress.ip_address(peer).is_loopback


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` as it was before the body was read."""
    begun = False

    async def replay() -> Message:
        nonlocal begun
        if begun:
            return await receive()
        begun = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
