"""The middleware that sees every HTTP request from its first byte to its last."""

import time
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aligner_serve.telemetry import Answered, Ended, Telemetry, Watcher

OTHER: Final = "other"
_CLIENT_GONE: Final = 499
"""nginx's status for a client that did not wait for the end."""

_choices: ContextVar[list[Ended] | None] = ContextVar("choices", default=None)
"""Of the request that is being worked on."""


class Gathering:
    """Telemetry that also puts each choice with the request that it belongs to."""

    def __init__(self, telemetry: Telemetry) -> None:
        """``telemetry`` hears of each choice at once."""
        self._telemetry = telemetry

    def ended(self, record: Ended) -> None:
        """Count it, and remember it until its request has ended."""
        self._telemetry.ended(record)
        if (choices := _choices.get()) is not None:
            choices.append(record)


class Ongoing:
    """How many requests are being worked on, by route."""

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()

    def enter(self, route: str) -> None:
        """One more."""
        self._now[route] += 1

    def leave(self, route: str) -> None:
        """One less; a route that was busy once stays, at 0."""
        self._now[route] -= 1

    @property
    def by_route(self) -> Mapping[str, int]:
        """At this moment."""
        return self._now


class Watch:
    """Tells ``watcher`` of each request after its last byte."""

    def __init__(
        self, app: ASGIApp, *, watcher: Watcher, ongoing: Ongoing, routes: frozenset[str]
    ) -> None:
        """``routes`` are the paths that are told apart: a client can ask for any."""
        self._app = app
        self._watcher = watcher
        self._ongoing = ongoing
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self._routes else OTHER
        started_at, started = time.time(), time.perf_counter()
        status, ended = _CLIENT_GONE, False

        async def watched(message: Message) -> None:
            nonlocal status, ended
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                ended = True

        choices: list[Ended] = []
        token = _choices.set(choices)
        self._ongoing.enter(route)
        try:
            await self._app(scope, receive, watched)
        finally:
            self._ongoing.leave(route)
            _choices.reset(token)
            self._watcher.answered(
                Answered(
                    request_id=scope.get("state", {}).get("request_id", ""),
                    route=route,
                    status=status if ended else _CLIENT_GONE,
                    started_at=started_at,
                    ms=1000 * (time.perf_counter() - started),
                    ends=tuple(choices),
                )
            )
