"""An OpenAI-compatible API that streams as many words as it is asked for, at a set pace.

It runs in a thread of its own and keeps the time at which it sent each answer's last word.
"""

import asyncio
import json
import random
import threading
import time
from typing import Any, Self

import random_models
from aiohttp import web

_EACH_S = 0.02
"""Between two pieces."""


class PacedApi:
    """The API for the length of a ``with`` block, on loopback."""

    def __init__(self, words_per_s: float, *, vocabulary: int) -> None:
        """``vocabulary`` is that of :mod:`random_models`; a question ends with how many words."""
        self._words = max(1, round(words_per_s * _EACH_S))
        self._vocabulary = vocabulary
        self.last_at: dict[str, float] = {}
        """By the question: ``time.perf_counter`` after its answer's last word."""
        self.base_url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> int:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return int(self._runner.addresses[0][1])

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        question = str(asked["messages"][-1]["content"])
        drawn = random.Random(question)
        numbers = [drawn.randrange(self._vocabulary - 3) for _ in range(int(question.split()[-1]))]
        words = random_models.text_of(numbers).split()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for at in range(0, len(words), self._words):
            await asyncio.sleep(_EACH_S)
            await response.write(_event({"content": " ".join(words[at : at + self._words]) + " "}))
        self.last_at[question] = time.perf_counter()
        await response.write(_event({}, "stop") + b"data: [DONE]\n\n")
        return response


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()
