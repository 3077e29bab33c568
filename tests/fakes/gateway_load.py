"""Somebody who asks as fast as they can, in a process of their own; what they saw is JSON.

Plain HTTP without an OpenAI client, which would take more of a small machine than what is measured.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Seen:
    """What came of all requests."""

    per_s: float
    median_ms: float
    failed: int
    first_byte_ms: float | None = None
    """From the first piece's leaving the corrector to its arrival; the median, of streams alone."""


def load(*stages: tuple[str, str], in_flight: int, requests: int, stream: bool = False) -> Seen:
    """Ask each of ``stages`` (address of its API, model) one after the other, in every request."""
    told = subprocess.run(
        [
            *(sys.executable, __file__, json.dumps(stages)),
            *(str(in_flight), str(requests), *(["--stream"] if stream else [])),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Seen(**json.loads(told.stdout))


class _Client:
    def __init__(
        self, session: aiohttp.ClientSession, stages: list[list[str]], stream: bool
    ) -> None:
        self._session, self._stages, self._stream = session, stages, stream
        self.seconds: list[float] = []
        self.first_byte_ms: list[float] = []
        self.failed = 0

    async def ask(self) -> None:
        """One request through all stages."""
        started = time.perf_counter()
        question = "What is it, and why is it so? " * 4
        for base_url, model in self._stages:
            body: dict[str, Any] = {
                "model": model,
                "messages": [{"role": "user", "content": question}],
            }
            if self._stream:
                body["stream"] = True
            async with self._session.post(f"{base_url}/chat/completions", json=body) as reply:
                if reply.status != 200:
                    self.failed += 1
                elif self._stream:
                    await self._read(reply)
                else:
                    question = (await reply.json())["choices"][0]["message"]["content"]
        self.seconds.append(time.perf_counter() - started)

    async def _read(self, reply: aiohttp.ClientResponse) -> None:
        """The first piece of text is the time at which it left."""
        first = True
        async for line in reply.content:
            if first and b'"content":"' in line and b'"content":""' not in line:
                arrived = time.monotonic_ns()
                delta = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]
                self.first_byte_ms.append((arrived - int(delta["content"])) / 1e6)
                first = False


async def _run(stages: list[list[str]], in_flight: int, requests: int, *, stream: bool) -> Seen:
    left = iter(range(requests))
    headers = {"Authorization": "Bearer unused"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        client = _Client(session, stages, stream)

        async def one_after_the_other() -> None:
            for _ in left:
                await client.ask()

        started = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
        took_s = time.perf_counter() - started
    return Seen(
        per_s=requests / took_s,
        median_ms=1000 * statistics.median(client.seconds),
        failed=client.failed,
        first_byte_ms=statistics.median(client.first_byte_ms) if client.first_byte_ms else None,
    )


def main() -> None:
    """Called by :func:`load`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", type=json.loads)
    parser.add_argument("in_flight", type=int)
    parser.add_argument("requests", type=int)
    parser.add_argument("--stream", action="store_true")
    given: Any = parser.parse_args()
    seen = asyncio.run(_run(given.stages, given.in_flight, given.requests, stream=given.stream))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
