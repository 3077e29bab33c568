"""Any OpenAI-compatible API as a chat model, over the official async client.

Errors begin with a short reason and a colon (``timeout: ...``), which :func:`failure_reason`
gives back; neither a key nor anything that was asked or answered stands in one.
"""

import asyncio
import datetime
import email.utils
import json
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self

import openai

from aligner.errors import ConfigError, EndpointError, GenerationError
from aligner.generation import Completion, Endpoint, Messages, Sampling, openai_parameters

_RETRIED_STATUS: Final = frozenset({408, 409, 429})
"""And every 5xx: the request itself is right and may succeed later."""

_REFUSES_ALL: Final = {
    401: "does not accept the key; check the variable named in api_key_env",
    403: "does not permit this key; check its rights or api_key_env",
    404: "does not know the model or the route; check model and base_url",
}
"""Statuses that every further request would meet as well, with the remedy."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_LONGEST_RETRY_AFTER_S: Final = 600.0
"""An API that asks to wait longer has closed for the day; the row fails instead."""

Sleep = Callable[[float], Awaitable[None]]


class OpenAIChat:
    """One model behind one endpoint; implements :class:`aligner.generation.ChatModel`.

    Any number of coroutines of one event loop may share it; how many requests are in flight is
    the caller's choice.
    """

    def __init__(self, endpoint: Endpoint, *, sleep: Sleep = asyncio.sleep) -> None:
        """``sleep`` waits between attempts.

        Raises:
            ConfigError: The variable that should hold the key is not set.
        """
        self._endpoint = endpoint
        self._sleep = sleep
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=_api_key(endpoint),
            timeout=endpoint.timeout_s,
            max_retries=0,
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
        try:
            await self._client.with_options(timeout=min(10.0, self._endpoint.timeout_s)).get(
                "/models", cast_to=object
            )
        except openai.APIStatusError as exc:
            # Not every API lists its models, and a busy one may answer 429: it is there.
            if exc.status_code in (401, 403):
                raise self._failure(exc, attempts=1) from None
        except openai.APIConnectionError as exc:
            failure = self._failure(exc, attempts=1)
            raise EndpointError(str(failure)) from None

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
        parameters = openai_parameters(sampling)
        if n > 1:
            parameters["n"] = n
        for attempt in range(1, self._endpoint.max_attempts + 1):
            try:
                return self._parse(await self._attempt(messages, parameters))
            except json.JSONDecodeError:
                raise self._error("malformed", "replied with broken JSON") from None
            except (openai.APIError, TimeoutError) as exc:
                pause_s = _pause_s(exc, attempt=attempt)
                if pause_s is None or attempt == self._endpoint.max_attempts:
                    # Not chained: the client's exceptions carry the request and the reply.
                    raise self._failure(exc, attempts=attempt) from None
            await self._sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, messages: Messages, parameters: dict[str, Any]) -> object:
        extensions = parameters.get("extra_body", {})
        plain = {key: value for key, value in parameters.items() if key != "extra_body"}
        body = {"model": self._endpoint.model, "messages": messages, **plain, **extensions}
        async with asyncio.timeout(self._endpoint.timeout_s):
            # Posted as it is: turning requests and replies into the client's own models would cost
            # a third of the time that a small machine spends on asking.
            reply = await self._client.post("/chat/completions", cast_to=object, body=body)
        # Servers that do not call their JSON by its name have it handed on as text.
        return json.loads(reply) if isinstance(reply, str) else reply

    def _parse(self, reply: Any) -> list[Completion]:
        try:
            usage = reply.get("usage") or {}
            choices = [
                (choice["message"].get("content"), choice.get("finish_reason"))
                for choice in reply["choices"]
            ]
        except (KeyError, TypeError, AttributeError):
            raise self._error("malformed", "replied with no chat completion") from None
        if not choices or not all(isinstance(text, str) for text, _ in choices):
            raise self._error("no_text", "replied without text")
        prompt_tokens, completion_tokens = _counts(usage)
        return [
            Completion(
                text=text,
                finish_reason=_finish_reason(reason),
                # The API counts all choices of a request together; the first carries the prompt.
                prompt_tokens=prompt_tokens if index == 0 else 0,
                completion_tokens=completion_tokens // len(choices),
            )
            for index, (text, reason) in enumerate(choices)
        ]

    def _failure(self, exc: Exception, *, attempts: int) -> GenerationError:
        tries = f"after {attempts} attempt{'s' if attempts > 1 else ''}"
        match exc:
            case TimeoutError() | openai.APITimeoutError():
                spent = f"gave no reply within {self._endpoint.timeout_s:g} s {tries}"
                return self._error("timeout", f"{spent}; raise timeout_s or ask less at a time")
            case openai.APIStatusError(status_code=status) if status in _REFUSES_ALL:
                return EndpointError(str(self._error(f"http_{status}", _REFUSES_ALL[status])))
            case openai.APIStatusError(status_code=status):
                return self._error(f"http_{status}", f"replied with status {status} {tries}")
            case openai.APIConnectionError() if _never_connected(exc):
                sentence = "does not answer; start it or correct base_url"
                return EndpointError(str(self._error("refused", sentence)))
            case openai.APIConnectionError():
                return self._error("connection_lost", f"broke the connection {tries}")
            case _:
                return self._error("malformed", "replied with no chat completion")

    def _error(self, reason: str, sentence: str) -> GenerationError:
        return GenerationError(
            f"{reason}: {self._endpoint.base_url} (model {self._endpoint.model!r}) {sentence}."
        )


def failure_reason(exc: GenerationError) -> str:
    """The short name of what went wrong: ``timeout``, ``http_500``, ``refused``, ``malformed``,
    ``no_text``, ``connection_lost``, or ``failed`` for an error that came from elsewhere."""
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


def _pause_s(exc: Exception, *, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; ``None`` where another would fail as well."""
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1))
    # Jitter: clients that were turned away together must not come back together.
    pause_s = random.uniform(longest / 2, longest)
    match exc:
        case openai.APIStatusError(status_code=status, response=response):
            if status not in _RETRIED_STATUS and status < 500:
                return None
            asked_s = _retry_after_s(response.headers)
            if asked_s is None:
                return pause_s
            return asked_s if asked_s <= _LONGEST_RETRY_AFTER_S else None
        case openai.APIConnectionError() | TimeoutError():
            return pause_s
        case _:
            return None


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


def _never_connected(exc: BaseException) -> bool:
    """Whether not even a connection came about.

    By name: which HTTP library the client stands on differs between its versions.
    """
    cause: BaseException | None = exc
    while cause is not None:
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _finish_reason(reason: object) -> Literal["stop", "length", "other"]:
    match reason:
        case "stop" | "length":
            return reason
        case _:
            return "other"


def _counts(usage: object) -> tuple[int, int]:
    if not isinstance(usage, dict):
        return 0, 0
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (prompt if isinstance(prompt, int) else 0, completion if type(completion) is int else 0)
