"""Clients of a gateway that ask at the same time, and what each of them saw."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

_PATIENCE_S = 60


def eventually(holds: Callable[[], bool]) -> None:
    """Return when ``holds()`` is true, which it must become."""
    until = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


class Client:
    """Asks one gateway."""

    def __init__(self, root: str) -> None:
        """``root`` is the gateway's address, without a path."""
        self.url = f"{root}/v1/chat/completions"

    async def ask(self, client: httpx.AsyncClient, model: str, *, stream: bool = False) -> "Seen":
        start = time.monotonic()
        response = await client.post(self.url, json=_question(model, stream=stream))
        return Seen(response, time.monotonic() - start)

    def one(self, model: str, *, stream: bool = False) -> "Seen":
        return asyncio.run(self._many([(model, stream)]))[0]

    def many(self, asked: Sequence[tuple[str, bool]]) -> "list[Seen]":
        return asyncio.run(self._many(asked))

    async def _many(self, asked: Sequence[tuple[str, bool]]) -> "list[Seen]":
        async with httpx.AsyncClient(timeout=2 * _PATIENCE_S, trust_env=False) as client:
            return await asyncio.gather(
                *(self.ask(client, model, stream=stream) for model, stream in asked)
            )

    def recovers(self, model: str) -> None:
        """Ask until it answers again."""
        eventually(lambda: self.one(model).status == 200)

    def leave(self, model: str, *, stream: bool, once: Callable[[], bool] = lambda: False) -> None:
        """Ask, and go away at the first piece of text, or when ``once()`` is true."""
        asyncio.run(self._leave(model, stream=stream, once=once))

    async def _leave(self, model: str, *, stream: bool, once: Callable[[], bool]) -> None:
        reading = asyncio.create_task(self._until_text(_question(model, stream=stream)))
        while not (reading.done() or once()):
            await asyncio.sleep(0.02)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading

    async def _until_text(self, body: dict[str, Any]) -> None:
        async with (
            httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as client,
            client.stream("POST", self.url, json=body) as response,
        ):
            async for line in response.aiter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    return


def _question(model: str, *, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Why?"}]
    return {"model": model, "messages": messages, "stream": stream}


class Seen:
    """What a client saw."""

    def __init__(self, response: httpx.Response, seconds: float) -> None:
        self.status, self.seconds = response.status_code, seconds
        self.raw, self.headers = response.text, response.headers
        self.events = [
            json.loads(line.removeprefix("data: "))
            for line in response.text.split("\n\n")
            if line.startswith("data: {")
        ]

    @property
    def text(self) -> str:
        if not self.events:
            return str(json.loads(self.raw)["choices"][0]["message"]["content"])
        deltas = [event["choices"][0]["delta"] for event in self.events if event.get("choices")]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def code(self) -> str:
        errors = [event["error"] for event in self.events if "error" in event]
        return str((errors or [json.loads(self.raw)["error"]])[0]["code"])

    @property
    def upstream(self) -> str:
        body = self.events[-1] if self.events else json.loads(self.raw)
        return str(body["aligner"]["upstream"])
