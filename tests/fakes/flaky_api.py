"""An OpenAI-compatible API that fails on purpose, in a process of its own, and counts.

Plain asyncio: on a small machine it shares two cores with whoever asks, and must answer several
thousand requests a second. What becomes of a request is drawn from its body and from how often
that body has been sent, so it is the same in every run, whoever asks first.
"""

import argparse
import asyncio
import bisect
import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Faults:
    """Shares of the requests, and what they meet."""

    latency_s: float = 0.1
    share_429: float = 0.0
    share_500: float = 0.0
    share_hang: float = 0.0
    share_malformed: float = 0.0
    retry_after_s: float = 1.0


TROUBLED = Faults(share_429=0.05, share_500=0.02, share_hang=0.01, share_malformed=0.005)
"""What the API stage is held against."""


@dataclass(frozen=True)
class Seen:
    """What the API has met so far."""

    outcomes: dict[str, int]
    """``ok``, ``429``, ``500``, ``hang`` and ``malformed``; ``lost`` are replies that were ready
    when nobody was there any more."""
    distinct: int
    """Different requests that were answered well at least once."""
    paid: int
    """Replies sent to the last byte."""
    paid_twice: int
    """Of these, how many had been paid before."""
    arrivals: list[float]
    """When requests came, in seconds of one clock."""
    tokens: list[tuple[float, int]]
    """When a request came that was answered well, and the tokens that it used."""
    most_at_once: int


def most_in_a_minute(times: list[float]) -> int:
    """How many of ``times`` fall into the fullest window of 60 s."""
    ordered = sorted(times)
    return max(
        bisect.bisect_left(ordered, first + 60.0) - index for index, first in enumerate(ordered)
    )


class _Api:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.sent = Counter[bytes]()
        self.paid = Counter[bytes]()
        self.outcomes = Counter[str]()
        self.arrivals: list[float] = []
        self.tokens: list[tuple[float, int]] = []
        self.now = self.most = 0
        self.pays_at_most: int | None = None

    @property
    def holds(self) -> bool:
        """Whether replies wait."""
        return self.pays_at_most is not None and len(self.tokens) >= self.pays_at_most

    def drawn(self, body: bytes) -> tuple[str, bytes]:
        digest = hashlib.sha256(body).digest()
        self.sent[digest] += 1
        draw = hashlib.sha256(digest + self.sent[digest].to_bytes(4, "big")).digest()
        left = int.from_bytes(draw[:8], "big") / 2**64
        for outcome in ("429", "500", "hang", "malformed"):
            left -= getattr(self.faults, f"share_{outcome}")
            if left < 0:
                return outcome, digest
        return "ok", digest

    def seen(self) -> Seen:
        return Seen(
            dict(self.outcomes),
            len(self.paid),
            self.paid.total(),
            self.paid.total() - len(self.paid),
            self.arrivals,
            self.tokens,
            self.most,
        )


class _Connection(asyncio.Protocol):
    def __init__(self, api: _Api) -> None:
        self._api = api
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, ends, rest = self._buffer.partition(b"\r\n\r\n")
        if not ends:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        if head.startswith(b"GET"):
            self._other(head)
        else:
            self._completion(rest[:length])

    def _other(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/seen"):
            self._send(200, json.dumps(asdict(self._api.seen())).encode())
        elif b"/pay_at_most/" in path:
            self._api.pays_at_most = json.loads(path.rpartition(b"/")[2])
            self._send(200, b"null")
        else:
            self._send(200, b'{"object": "list", "data": []}')

    def _completion(self, body: bytes) -> None:
        api, loop = self._api, asyncio.get_running_loop()
        arrived = time.monotonic()
        api.arrivals.append(arrived)
        api.now += 1
        api.most = max(api.most, api.now)
        outcome, digest = api.drawn(body)
        api.outcomes[outcome] += 1
        if outcome == "hang":
            return
        loop.call_later(api.faults.latency_s, self._reply, outcome, digest, body, arrived)

    def _reply(self, outcome: str, digest: bytes, body: bytes, arrived: float) -> None:
        api = self._api
        if api.holds:
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, self._reply, outcome, digest, body, arrived)
            return
        api.now -= 1
        if self._transport.is_closing():
            api.outcomes["lost"] += 1
        elif outcome == "429":
            self._send(429, b'{"error": {}}', f"Retry-After: {api.faults.retry_after_s}\r\n")
        elif outcome == "500":
            self._send(500, b'{"error": {}}')
        elif outcome == "malformed":
            self._send(200, b'{"choices": [{"message": {"content": "cut')
        else:
            reply = _completion(json.loads(body), digest)
            api.paid[digest] += 1
            api.tokens.append((arrived, sum(reply["usage"].values())))
            self._send(200, json.dumps(reply).encode())

    def _send(self, status: int, body: bytes, headers: str = "") -> None:
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{headers}\r\n"
        )
        self._transport.write(head.encode() + body)


def _completion(asked: dict[str, Any], digest: bytes) -> dict[str, Any]:
    words = digest.hex()
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": f"Answer {words[index:]}."},
            "finish_reason": "stop",
        }
        for index in range(asked.get("n", 1))
    ]
    return {
        "object": "chat.completion",
        "choices": choices,
        "usage": {
            "prompt_tokens": sum(len(one["content"]) for one in asked["messages"]) // 4,
            "completion_tokens": 20 * len(choices),
        },
    }


class FlakyApi:
    """The API for the length of a ``with`` block; it ends with whoever started it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._process: subprocess.Popen[str] | None = None
        self.base_url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(self._faults))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.base_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.communicate("")

    def seen(self) -> Seen:
        """Everything so far."""
        return Seen(**self._ask("seen"))

    def pay_at_most(self, replies: int | None) -> None:
        """Once it was paid for so many, it answers nobody until this is called with another."""
        self._ask(f"pay_at_most/{json.dumps(replies)}")

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.base_url}/{path}", timeout=30) as reply:
            return json.load(reply)


async def _serve(faults: Faults) -> None:
    api, loop = _Api(faults), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(api), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("faults", type=json.loads)
    asyncio.run(_serve(Faults(**parser.parse_args().faults)))
