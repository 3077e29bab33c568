"""Somebody who asks a served graph all the time, and holds every reply against what is known."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import openai

from aligner.records import Triple

Way = Literal["plain", "stream", "correction"]
WAYS: tuple[Way, ...] = ("plain", "stream", "correction")

NAMED = frozenset({"passthrough", "blocked"})
"""Outcomes that a policy names."""


@dataclass(slots=True)
class Tally:
    """What became of all requests."""

    asked: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of those answered: ``corrected``, or ``passthrough (timeout)``."""
    errors: Counter[str] = field(default_factory=Counter)
    """Of single attempts, by status and code."""
    named: Counter[str] = field(default_factory=Counter)
    """Streams that broke off as the policy says: with an event that tells why."""
    lost: Counter[str] = field(default_factory=Counter)
    """Requests that came to nothing, or to half, in spite of the retries of OpenAI's client."""
    leaks: int = 0
    """Replies with words of a raw answer that nobody was told of."""
    wrong: int = 0
    """Replies that are neither the correction nor an answer passed on by the policy."""
    versions: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Requests at their end."""
        return len(self.seconds)


class Load:
    """``in_flight`` clients that ask one request after the other."""

    def __init__(
        self,
        url: str,
        rows: Sequence[Triple],
        *,
        model: str,
        in_flight: int,
        pause_s: float = 0.0,
        retries: int = 2,
        seed: int = 0,
    ) -> None:
        """``rows`` are known by heart, and asked in one of three ways, drawn by ``seed``."""
        self.tally = Tally()
        self._client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="unused", timeout=120, max_retries=0
        )
        self._rows = rows
        self._model = model
        self._in_flight = in_flight
        self._pause_s = pause_s
        self._retries = retries
        self._draw = random.Random(seed)
        self._ended = False

    async def run(self, requests: int) -> None:
        """Ask so many; once only, for the connections are closed then."""
        left = iter(range(requests))

        async def one_after_the_other() -> None:
            for _ in left:
                if self._ended:
                    return
                await self._request()
                await asyncio.sleep(self._pause_s)

        async with self._client:
            await asyncio.gather(*(one_after_the_other() for _ in range(self._in_flight)))

    def end(self) -> None:
        """Finish what is in flight and ask nothing further."""
        self._ended = True

    async def _request(self) -> None:
        row = self._draw.choice(self._rows)
        way = self._draw.choice(WAYS)
        self.tally.asked += 1
        started, failed = time.monotonic(), ""
        for attempt in range(1 + self._retries):
            if attempt:
                await asyncio.sleep(0.5 * 2 ** (attempt - 1))
            try:
                await self._attempt(row, way)
                failed = ""
                break
            except openai.APIStatusError as exc:
                failed = f"{exc.status_code} {exc.code or 'no error object'}"
            except openai.APIError as exc:
                failed = f"{type(exc).__name__} {exc.code or ''}".strip()
            self.tally.errors[f"{way}: {failed}"] += 1
        if failed:
            self.tally.lost[f"{way}: {failed}"] += 1
        self.tally.seconds.append(time.monotonic() - started)

    async def _attempt(self, row: Triple, way: Way) -> None:
        messages: Any = [{"role": "user", "content": row.question}]
        match way:
            case "plain":
                reply: Any = await self._client.chat.completions.create(
                    model=self._model, messages=messages
                )
                self._hold(row, reply.choices[0].message.content or "", reply.aligner)
            case "stream":
                chunks: Any = await self._client.chat.completions.create(
                    model=self._model, messages=messages, stream=True
                )
                await self._read(row, chunks)
            case "correction":
                body = {"question": row.question, "answer": row.answer}
                given: Any = await self._client.post("/corrections", body=body, cast_to=object)
                self._hold(row, given["correction"] or "", given["aligner"])

    async def _read(self, row: Triple, chunks: Any) -> None:
        """A stream that breaks off is not asked for again, neither here nor by OpenAI's client."""
        text, told = "", None
        try:
            async for chunk in chunks:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                told = getattr(chunk, "aligner", None) or told
        except (openai.APIError, httpx.HTTPError) as exc:
            code = getattr(exc, "code", None)
            said = self.tally.named if code else self.tally.lost
            said[f"stream: {code or type(exc).__name__}"] += 1
            # What has come must be the beginning of the correction, and nothing else.
            self.tally.leaks += not row.correction.startswith(text)
            return
        self._hold(row, text, told)

    def _hold(self, row: Triple, text: str, told: Any) -> None:
        outcome = told["outcome"] if told else "cut off"
        reason = told.get("reason") if told else None
        self.tally.outcomes[f"{outcome} ({reason})" if reason else outcome] += 1
        if told is None:
            self.tally.lost["stream: ended without its last event"] += 1
        self.tally.versions[(told or {}).get("version") or "none"] += 1
        if outcome in NAMED:
            return
        raw = set(row.answer.split()) - set(row.correction.split())
        self.tally.leaks += bool(raw & set(text.split()))
        self.tally.wrong += text != row.correction
