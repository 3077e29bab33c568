"""Clients of a gateway that ask at the same time, and what each of them saw."""

import asyncio
import json
import time
from collections.abc import Sequence

import httpx


class Client:
    """Asks one gateway."""

    def __init__(self, root: str) -> None:
        """``root`` is the gateway's address, without a path."""
        self.url = f"{root}/v1/chat/completions"

    async def ask(self, client: httpx.AsyncClient, model: str, *, stream: bool = False) -> "Seen":
        body = {"model": model, "messages": [{"role": "user", "content": "Why?"}]}
        start = time.monotonic()
        response = await client.post(self.url, json={**body, "stream": stream})
        return Seen(response, time.monotonic() - start)

    def one(self, model: str, *, stream: bool = False) -> "Seen":
        return asyncio.run(self._many([(model, stream)]))[0]

    def many(self, asked: Sequence[tuple[str, bool]]) -> "list[Seen]":
        return asyncio.run(self._many(asked))

    async def _many(self, asked: Sequence[tuple[str, bool]]) -> "list[Seen]":
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            return await asyncio.gather(
                *(self.ask(client, model, stream=stream) for model, stream in asked)
            )

    def recovers(self, model: str) -> float:
        """Seconds until it answers again."""
        start = time.monotonic()
        while self.one(model).status != 200:
            assert time.monotonic() - start < 10
            time.sleep(0.05)
        return time.monotonic() - start

    def leave(self, model: str, *, stream: bool) -> None:
        """Ask, and go away at the first piece of text, or after a second without any."""
        asyncio.run(self._leave(model, stream=stream))

    async def _leave(self, model: str, *, stream: bool) -> None:
        messages = [{"role": "user", "content": "Why?"}]
        body = {"model": model, "messages": messages, "stream": stream}
        # A stream that is corrected says nothing for as long as its upstream writes.
        limits = httpx.Timeout(30, read=1.0)
        async with httpx.AsyncClient(timeout=limits, trust_env=False) as client:
            try:
                async with client.stream("POST", self.url, json=body) as response:
                    async for line in response.aiter_lines():
                        if '"content":"' in line and '"content":""' not in line:
                            return
            except httpx.ReadTimeout:
                return


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
