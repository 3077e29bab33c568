"""Any OpenAI-compatible API as a chat model, over the official async client.

Errors begin with a short reason and a colon (``timeout: ...``), which :func:`failure_reason`
gives back; neither a key nor anything that was asked or answered stands in one.
"""

import asyncio
import dataclasses
import datetime
import email.utils
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import openai

from aligner.errors import ConfigError, EndpointError, GenerationError
from aligner.generation import (
    Admit,
    Attempt,
    Completion,
    Endpoint,
    Messages,
    Sampling,
    Settle,
    admit_all,
    completions_in,
    openai_parameters,
)

_RETRIED_STATUS: Final = frozenset({408, 409, 429})
"""And every 5xx: the request itself is right and may succeed later."""

_REFUSES_ALL: Final = {
    401: "does not accept the key; check the variable named in api_key_env",
    403: "does not permit this key; check its rights or api_key_env",
    404: "does not know the model or the route; check model and base_url",
}
"""Statuses that every further request would meet as well, with the remedy."""

_NEVER_CONNECTED: Final = {"ConnectError", "ClientConnectorError", "ClientConnectorDNSError"}
_LOST: Final = {"ServerDisconnectedError", "ClientOSError", "ClientPayloadError"}
"""What lies behind the client's exceptions, which call some of these a timeout."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0

_TOKENS_PER_MESSAGE: Final = 16
"""More than any chat template spends on one, apart from its text."""

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
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=_api_key(endpoint),
            timeout=endpoint.timeout_s,
            max_retries=0,
            # Of the client's two transports this one does with nearly half of the CPU time.
            http_client=openai.DefaultAioHttpClient(),
        )

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
        completions = await self._request(messages, sampling, n=n)
        while len(completions) < n:
            one_more = sampling
            if sampling.seed is not None:
                update = {"seed": sampling.seed + len(completions)}
                one_more = sampling.model_copy(update=update)
            completions += await self._request(messages, one_more, n=1)
        return completions[:n]

    async def probe(self) -> None:
        """Ask for the list of models, to learn early that nobody answers.

        Raises:
            EndpointError: The endpoint cannot be reached or refuses the key.
        """
        timeout_s = min(10.0, self._endpoint.timeout_s)
        try:
            await self._client.with_options(timeout=timeout_s).get("/models", cast_to=object)
        except openai.APIStatusError as exc:
            # Not every API lists its models, and a busy one may answer 429: it is there.
            if exc.status_code in (401, 403):
                raise self._error(_failure(exc, timeout_s=timeout_s), attempts=1) from None
        except openai.APIConnectionError as exc:
            failure = dataclasses.replace(_failure(exc, timeout_s=timeout_s), concerns_all=True)
            raise self._error(failure, attempts=1) from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _request(self, messages: Messages, sampling: Sampling, *, n: int) -> list[Completion]:
        body = _body(self._endpoint.model, messages, sampling, n=n)
        tokens = _tokens_at_most(messages, sampling, n=n)
        ends_at: float | None = None
        for attempt in range(1, self._endpoint.max_attempts + 1):
            settle = await self._admit(tokens)
            # From the first attempt on: waiting for one's turn is no failure of the endpoint.
            ends_at = ends_at or time.monotonic() + self._endpoint.deadline_s
            result = await self._attempt(body, settle, ends_at=ends_at)
            if not isinstance(result, _Failure):
                return result
            pause_s = result.pause_s(attempt=attempt)
            in_time = time.monotonic() + pause_s < ends_at
            if not result.may_pass or not in_time or attempt == self._endpoint.max_attempts:
                raise self._error(result, attempts=attempt)
            await self._sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(
        self, body: dict[str, Any], settle: Settle, *, ends_at: float
    ) -> "list[Completion] | _Failure":
        """Send ``body`` once and tell ``settle`` what came of it, a cancellation too."""
        told = Attempt("cancelled")
        try:
            result = await self._post(body, left_s=ends_at - time.monotonic())
            told = _told(result)
            return result
        finally:
            settle(told)

    async def _post(self, body: dict[str, Any], *, left_s: float) -> "list[Completion] | _Failure":
        try:
            async with asyncio.timeout(min(self._endpoint.timeout_s, left_s)):
                # Posted as it is: turning requests and replies into the client's own models would
                # cost a third of the time that a small machine spends on asking.
                reply = await self._client.post("/chat/completions", cast_to=object, body=body)
            # Servers that do not call their JSON by its name have it handed on as text.
            found = completions_in(json.loads(reply) if isinstance(reply, str) else reply)
        except (json.JSONDecodeError, UnicodeDecodeError):
            return _Failure("malformed", "replied with broken JSON")
        except (openai.APIError, TimeoutError) as exc:
            if isinstance(exc, TimeoutError) and left_s < self._endpoint.timeout_s:
                within = f"gave no usable reply within deadline_s={self._endpoint.deadline_s:g}"
                return _Failure("deadline", within, may_pass=False)
            return _failure(exc, timeout_s=self._endpoint.timeout_s)
        match found:
            case "malformed":
                return _Failure("malformed", "replied with no chat completion")
            case "no_text":
                return _Failure("no_text", "replied without text", may_pass=False)
            case _:
                return found

    def _error(self, failure: "_Failure", *, attempts: int) -> GenerationError:
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        remedy = f"; {failure.remedy}" if failure.remedy else ""
        where = f"{self._endpoint.base_url} (model {self._endpoint.model!r})"
        kind = EndpointError if failure.concerns_all else GenerationError
        return kind(f"{failure.reason}: {where} {failure.what}{tries}{remedy}.")


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why there is no usable text."""

    reason: str
    what: str
    remedy: str = ""
    may_pass: bool = True
    """Whether another attempt may succeed."""
    concerns_all: bool = False
    """Whether every other request would meet it as well."""
    retry_after_s: float | None = None

    def pause_s(self, *, attempt: int) -> float:
        """Seconds to wait before the next attempt."""
        if self.retry_after_s is not None:
            return self.retry_after_s
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1))
        # Jitter: clients that were turned away together must not come back together.
        return random.uniform(longest / 2, longest)


def failure_reason(exc: GenerationError) -> str:
    """The short name of what went wrong: ``timeout``, ``deadline``, ``http_500``, ``refused``,
    ``malformed``, ``no_text``, ``connection_lost``, or ``failed`` for what came from elsewhere."""
    reason, colon, _ = str(exc).partition(":")
    return reason if colon and reason.replace("_", "").isalnum() else "failed"


def _api_key(endpoint: Endpoint) -> str:
    if endpoint.api_key_env is None:
        # The client insists on a key; servers that ask for none ignore it.
        return "none"
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"{endpoint.base_url}: the environment variable {endpoint.api_key_env!r} named in "
            "api_key_env is not set; export it."
        )
    return key


def _body(model: str, messages: Messages, sampling: Sampling, *, n: int) -> dict[str, Any]:
    parameters = openai_parameters(sampling)
    extensions = parameters.pop("extra_body", {})
    samples = {"n": n} if n > 1 else {}
    return {"model": model, "messages": messages, **parameters, **samples, **extensions}


def _tokens_at_most(messages: Messages, sampling: Sampling, *, n: int) -> int:
    """No tokenizer makes more tokens of a text than it has bytes."""
    texts = sum(len(message["content"].encode(errors="replace")) for message in messages)
    return texts + _TOKENS_PER_MESSAGE * len(messages) + n * sampling.max_tokens


def _told(result: list[Completion] | _Failure) -> Attempt:
    if isinstance(result, _Failure):
        return Attempt(result.reason, retry_after_s=result.retry_after_s)
    return Attempt(
        "ok",
        prompt_tokens=sum(one.prompt_tokens for one in result),
        completion_tokens=sum(one.completion_tokens for one in result),
    )


def _failure(exc: Exception, *, timeout_s: float) -> _Failure:
    causes = _causes(exc)
    match exc:
        case openai.APIConnectionError() if _NEVER_CONNECTED & causes:
            remedy = "start it or correct base_url"
            return _Failure("refused", "does not answer", remedy, concerns_all=True)
        case openai.APIConnectionError() if _LOST & causes:
            return _Failure("connection_lost", "broke the connection")
        case TimeoutError() | openai.APITimeoutError():
            remedy = "raise timeout_s or ask less at a time"
            return _Failure("timeout", f"gave no reply within {timeout_s:g} s", remedy)
        case openai.APIStatusError(status_code=status) if status in _REFUSES_ALL:
            what, _, remedy = _REFUSES_ALL[status].partition("; ")
            return _Failure(f"http_{status}", what, remedy, may_pass=False, concerns_all=True)
        case openai.APIStatusError(status_code=status, response=response):
            return _Failure(
                f"http_{status}",
                f"replied with status {status}",
                may_pass=status in _RETRIED_STATUS or status >= 500,
                retry_after_s=_retry_after_s(response.headers),
            )
        case openai.APIConnectionError():
            return _Failure("connection_lost", "broke the connection")
        case _:
            return _Failure("malformed", "replied with no chat completion")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The ``Retry-After`` header, given in seconds or as a date."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    now = datetime.datetime.now(when.tzinfo)
    return max(0.0, (when - now).total_seconds())


def _causes(exc: BaseException) -> set[str]:
    """The names of the exceptions behind ``exc``.

    By name: which HTTP library the client stands on differs between its versions.
    """
    names, cause = set[str](), exc.__cause__ or exc.__context__
    while cause is not None:
        names.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return names
