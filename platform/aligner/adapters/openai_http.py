"""Any OpenAI-compatible API as a chat model, whole or streamed, over aiohttp.

Errors begin with a short reason and a colon (``timeout: ...``), which
:func:`aligner.failures.failure_reason` gives back; neither a key nor anything that was asked or
answered stands in one. Nothing that an API sends can make a request last longer than its limits
or fill the memory.
"""

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

import aiohttp

from aligner.api_call import Call, Piece, chat_call, told_of
from aligner.chat_events import ChatEvents, completions_of
from aligner.errors import ConfigError, EndpointError, GenerationError
from aligner.failures import (
    FORBIDDEN,
    LOST,
    MALFORMED,
    REFUSED,
    TOO_LARGE,
    Failure,
    of_status,
)
from aligner.generation import (
    Admit,
    Attempt,
    Completion,
    Endpoint,
    Messages,
    Sampling,
    admit_all,
)
from aligner.networks import ForbiddenAddress, reach_of
from aligner.patience import Limits, Patience

_CONNECT_S: Final = 10.0

_DRAIN_S: Final = 0.02
_DRAIN_READS: Final = 4

Sleep = Callable[[float], Awaitable[None]]


class OpenAIChat:
    """One model behind one endpoint; implements :class:`aligner.generation.ChatModel`.

    Any number of coroutines of one event loop may share it; how many requests are in flight is
    the caller's choice.
    """

    def __init__(
        self, endpoint: Endpoint, *, admit: Admit = admit_all, sleep: Sleep = asyncio.sleep
    ) -> None:
        """``admit`` is asked before each attempt; ``sleep`` waits between them.

        Raises:
            ConfigError: The variable that should hold the key is not set.
        """
        self._endpoint = endpoint
        self._admit = admit
        self._sleep = sleep
        self._headers = _headers(endpoint)
        self._opened: aiohttp.ClientSession | None = None

    @property
    def endpoint(self) -> Endpoint:
        """What it talks to."""
        return self._endpoint

    async def complete(self, messages: Messages, sampling: Sampling) -> Completion:
        """Generate one completion.

        Raises:
            EndpointError: The endpoint cannot be reached or refuses every request.
            GenerationError: No usable text after the last attempt.
        """
        (completion,) = await self.complete_many(messages, sampling, n=1)
        return completion

    async def complete_many(
        self, messages: Messages, sampling: Sampling, *, n: int
    ) -> list[Completion]:
        """Generate ``n`` completions of the same messages, in one request where honoured.

        An API that ignores ``n`` is asked again, the seed raised each time, until there are
        ``n``. Raises as :meth:`complete` does.
        """
        completions = await self._whole(messages, sampling, n=n)
        while len(completions) < n:
            one_more = sampling
            if sampling.seed is not None:
                update = {"seed": sampling.seed + len(completions)}
                one_more = sampling.model_copy(update=update)
            completions += await self._whole(messages, one_more, n=1)
        return completions[:n]

    async def stream(
        self, messages: Messages, sampling: Sampling, *, patience: Patience, held: bool = False
    ) -> AsyncGenerator[str | Completion | Failure]:
        """Generate one completion, streamed: its pieces, then the whole of it or a failure.

        What may pass is tried again until the first piece was given. With ``held`` no pieces
        are given, so a reply that breaks off in the middle is tried again as well. Closing the
        generator closes the connection. An API that does not stream is taken as it is.
        """
        call = chat_call(self._endpoint.model, messages, sampling, n=1, stream=True)
        asked = self._ask(call, deadline_s=patience.deadline_s, patience=patience, held=held)
        async with aclosing(asked):
            async for piece in asked:
                yield piece[0] if isinstance(piece, list) else piece

    async def whole(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float
    ) -> Completion | Failure:
        """Generate one completion in one piece; what goes wrong is data here."""
        call = chat_call(self._endpoint.model, messages, sampling, n=1)
        end = await self._end(call, deadline_s=deadline_s)
        return end[0] if isinstance(end, list) else end

    async def probe(self) -> None:
        """Ask for the list of models, to learn early that nobody answers.

        Raises:
            EndpointError: The endpoint cannot be reached or refuses the key.
        """
        limits = Limits(self._endpoint, deadline_s=10.0)
        failure = None
        try:
            async with limits.next():
                response = await self._session().get(self._url("/models"), allow_redirects=False)
                response.close()
            # Not every API lists its models, and a busy one may answer 429: it is there.
            if response.status in (401, 403):
                failure = of_status(response.status, response.headers)
        except (aiohttp.ClientError, TimeoutError) as exc:
            found = limits.due if isinstance(exc, TimeoutError) else _failure(exc)
            failure = dataclasses.replace(found, concerns_all=True)
        if failure is not None:
            raise self._error(failure)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _whole(self, messages: Messages, sampling: Sampling, *, n: int) -> list[Completion]:
        call = chat_call(self._endpoint.model, messages, sampling, n=n)
        end = await self._end(call, deadline_s=self._endpoint.deadline_s)
        if isinstance(end, Failure):
            raise self._error(end)
        return end

    async def _end(self, call: Call, *, deadline_s: float) -> list[Completion] | Failure:
        async with aclosing(self._ask(call, deadline_s=deadline_s, held=True)) as asked:
            async for piece in asked:
                assert not isinstance(piece, str)
                return piece
        raise AssertionError("what is asked has an end")

    async def _ask(
        self, call: Call, *, deadline_s: float, held: bool, patience: Patience | None = None
    ) -> AsyncGenerator[Piece]:
        """Texts unless ``held``, then one end: that of the last attempt."""
        ends_at: float | None = None
        now = asyncio.get_running_loop().time
        for attempt in range(1, self._endpoint.max_attempts + 1):
            settle = await self._admit(call.tokens)
            # From the first attempt on: waiting for one's turn is no failure of the endpoint.
            ends_at = ends_at or now() + deadline_s
            limits = Limits(
                self._endpoint, ends_at=ends_at, deadline_s=deadline_s, patience=patience
            )
            told, given = Attempt("cancelled"), False
            end: Piece = LOST
            try:
                async with aclosing(self._post(call, limits)) as pieces:
                    async for end in pieces:
                        if isinstance(end, str) and not held:
                            given = True
                            yield end
                told = told_of(end)
            finally:
                # Of a cancellation, too.
                settle(told)
            if not isinstance(end, Failure):
                break
            end = dataclasses.replace(end, attempts=attempt)
            pause_s = end.pause_s()
            in_time = now() + pause_s < ends_at
            if given or not end.may_pass or not in_time or attempt == self._endpoint.max_attempts:
                break
            await self._sleep(pause_s)
        yield end

    async def _post(self, call: Call, limits: Limits) -> AsyncGenerator[Piece]:
        """Send ``call`` once: its pieces, then one end."""
        response: aiohttp.ClientResponse | None = None
        try:
            async with limits.next():
                response = await self._session().post(
                    self._url("/chat/completions"), data=call.body, allow_redirects=False
                )
            if response.status != 200:
                await _drain(response)
                yield of_status(response.status, response.headers)
            elif response.content_type == "text/event-stream":
                async with aclosing(_streamed(response, limits, call.reply_bytes)) as pieces:
                    async for piece in pieces:
                        yield piece
            else:
                yield await _read(response, limits, call.reply_bytes)
        except TimeoutError:
            yield limits.due
        except aiohttp.ClientError as exc:
            yield _failure(exc)
        finally:
            # A connection whose reply was read to its end is in the pool again by now.
            if response is not None:
                response.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=_connector(self._endpoint),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                # Requests of different people share the session: none may leave a trace in it.
                cookie_jar=aiohttp.DummyCookieJar(),
                # A few packed bytes could be gigabytes.
                auto_decompress=False,
            )
        return self._opened

    def _url(self, route: str) -> str:
        return self._endpoint.base_url + route

    def _error(self, failure: Failure) -> GenerationError:
        tries = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
        remedy = f"; {failure.remedy}" if failure.remedy else ""
        where = f"{self._endpoint.base_url} (model {self._endpoint.model!r})"
        kind = EndpointError if failure.concerns_all else GenerationError
        return kind(f"{failure.reason}: {where} {failure.what}{tries}{remedy}.")


async def _streamed(
    response: aiohttp.ClientResponse, limits: Limits, most_bytes: int
) -> AsyncGenerator[Piece]:
    """The texts in a stream of events, then its end."""
    events, size = ChatEvents(), 0
    while not events.done:
        async with limits.next():
            data = await response.content.readany()
        if not data:
            break
        size += len(data)
        fed = TOO_LARGE if size > most_bytes else events.feed(data)
        if isinstance(fed, Failure):
            yield fed
            return
        limits.begun = events.begun
        if fed:
            yield fed
    await _drain(response)
    end = events.end()
    yield end if isinstance(end, Failure) else [end]


async def _read(
    response: aiohttp.ClientResponse, limits: Limits, most_bytes: int
) -> list[Completion] | Failure:
    """The completions in a reply that comes as a whole."""
    body = bytearray()
    # Events are what there may be silence between; here there is only the end.
    limits.begun = True
    while True:
        async with limits.next():
            data = await response.content.readany()
        if not data:
            break
        body += data
        if len(body) > most_bytes:
            return TOO_LARGE
    return completions_of(bytes(body))


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Take the few bytes that may be left, so that the connection can be used again."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_DRAIN_S):
            for _ in range(_DRAIN_READS):
                if not await response.content.readany():
                    return


def _connector(endpoint: Endpoint) -> aiohttp.TCPConnector:
    """Looks at each address before it connects; proxies of the environment are not asked."""
    if endpoint.networks is None:
        return aiohttp.TCPConnector(limit=0)
    reach = reach_of(endpoint.base_url, endpoint.networks)
    return aiohttp.TCPConnector(limit=0, socket_factory=reach.open_socket)


def _failure(exc: aiohttp.ClientError) -> Failure:
    match exc:
        case aiohttp.ClientConnectorError(os_error=ForbiddenAddress()):
            return FORBIDDEN
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return REFUSED
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return LOST
        case _:
            return MALFORMED


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if endpoint.api_key_env is None:
        return headers
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"{endpoint.base_url}: the environment variable {endpoint.api_key_env!r} named in "
            "api_key_env is not set; export it."
        )
    return {**headers, "Authorization": f"Bearer {key}"}
