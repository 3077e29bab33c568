"""An OpenAI-compatible API that breaks in the way that a test names, and works again when told.

It runs in a thread of its own. How it behaves holds for requests that come from then on.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, Self

from aligner.runtime_env import free_port

Behaviour = Literal[
    "works",
    "hangs",
    "stalls",
    "breaks_off",
    "ends_early",
    "reports_error",
    "garbage",
    "garbage_stream",
    "busy",
    "fails",
    "refuses",
    "half_characters",
    "drips",
    "comments",
    "floods",
    "floods_line",
    "floods_error",
]

PIECES: Final = ("A", " canary", " of", " a", " raw", " answer", ".")
ANSWER: Final = "".join(PIECES)
FLOOD_BYTES: Final = 100_000_000
RETRY_AFTER_S: Final = 2


class BrokenApi:
    """The API for the length of a ``with`` block, on loopback."""

    def __init__(self, behaviour: Behaviour = "works") -> None:
        """It can be told otherwise at any time."""
        self.behaviour: Behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.hung_up = 0
        """Requests whose client went away before the end."""
        self.sent_bytes = 0
        self.connections = 0
        # Of its own from the start: nobody else may take it while the API is down.
        self._port = free_port()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.StreamWriter]()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def base_url(self) -> str:
        """What an upstream is given."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self.come_up()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def come_up(self) -> None:
        """Listen, on the same port each time."""
        self._run(self._come_up())

    def go_down(self) -> None:
        """Stop listening and drop all connections."""
        self._run(self._go_down())

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _come_up(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def _go_down(self) -> None:
        assert self._server is not None
        self._server.close()
        # What has just been accepted is no connection before some turns of the loop are over.
        for _ in range(10):
            await asyncio.sleep(0)
        for writer in self._open:
            writer.transport.abort()
        this = asyncio.current_task()
        ending = [task for task in asyncio.all_tasks() if task is not this]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.connections += 1
        try:
            while asked := await _request(reader):
                self.requests.append(asked)
                replying = asyncio.ensure_future(self._reply(asked, writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({replying, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not replying.done():
                    self.hung_up += 1
                    replying.cancel()
                    return
                gone.cancel()
                await asyncio.gather(replying, gone, return_exceptions=True)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _reply(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            self.sent_bytes += len(data)
            await writer.drain()

        await _BEHAVIOURS[self.behaviour](send, writer, asked)


Send = Callable[[bytes], Awaitable[None]]


async def _request(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, found, after = head.partition(b"content-length:")
    length = int(after.split(b"\r\n", 1)[0]) if found else 0
    body = await reader.readexactly(length)
    asked: dict[str, Any] = json.loads(body) if body else {"get": True}
    return asked


def _head(status: int, *headers: str) -> bytes:
    return ("\r\n".join([f"HTTP/1.1 {status} X", *headers]) + "\r\n\r\n").encode()


def _whole(status: int, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    length = f"Content-Length: {len(body)}"
    return _head(status, f"Content-Type: {kind}", length, *headers) + body


STREAM: Final = _head(200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked")


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(body: dict[str, Any]) -> bytes:
    return chunk(b"data: " + json.dumps(body).encode() + b"\n\n")


def text_event(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


USAGE: Final = {"prompt_tokens": 5, "completion_tokens": len(PIECES)}


async def _works(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    if not asked.get("stream"):
        message = {"role": "assistant", "content": ANSWER}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await send(_whole(200, json.dumps({"choices": [choice], "usage": USAGE}).encode()))
        return
    await send(STREAM)
    for piece in PIECES:
        await send(text_event(piece))
    await send(text_event("", "stop") + event({"choices": [], "usage": USAGE}))
    await send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def _begun(send: Send) -> None:
    await send(STREAM + text_event(PIECES[0]) + text_event(PIECES[1]))


async def _hangs(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await asyncio.Event().wait()


async def _stalls(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await _begun(send)
    await asyncio.Event().wait()


async def _breaks_off(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await _begun(send)
    writer.close()


async def _ends_early(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await _begun(send)
    await send(b"0\r\n\r\n")


async def _reports_error(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await _begun(send)
    await send(event({"error": {"message": "the engine died", "code": 500}}) + b"0\r\n\r\n")


async def _garbage(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(_whole(200, b"<html>" + bytes(range(256)), kind="text/html"))


async def _garbage_stream(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(STREAM + chunk(b"data: {\xff\xfe" + bytes(range(256)) + b"\n\n") + b"0\r\n\r\n")


async def _busy(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(_whole(429, b'{"error": {}}', f"Retry-After: {RETRY_AFTER_S}"))


async def _fails(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(_whole(500, b'{"error": {}}'))


async def _refuses(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(_whole(400, b'{"error": {"message": "context length"}}'))


async def _half_characters(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(
        STREAM + text_event("A \ud83d B", "stop") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    )


async def _drips(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(STREAM)
    while True:
        await send(text_event("drip "))
        await asyncio.sleep(0.05)


async def _comments(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(STREAM)
    while True:
        await send(chunk(b": still there\n\n"))
        await asyncio.sleep(0.05)


async def _floods(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(STREAM)
    piece = text_event("flood " * 1000)
    for _ in range(FLOOD_BYTES // len(piece)):
        await send(piece)


async def _floods_line(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(STREAM)
    for _ in range(FLOOD_BYTES // 10_000):
        await send(chunk(b"x" * 10_000))


async def _floods_error(send: Send, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    await send(_head(500, f"Content-Length: {FLOOD_BYTES}"))
    for _ in range(FLOOD_BYTES // 10_000):
        await send(b"x" * 10_000)


_BEHAVIOURS: Final[
    dict[Behaviour, Callable[[Send, asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]]
] = {
    "works": _works,
    "hangs": _hangs,
    "stalls": _stalls,
    "breaks_off": _breaks_off,
    "ends_early": _ends_early,
    "reports_error": _reports_error,
    "garbage": _garbage,
    "garbage_stream": _garbage_stream,
    "busy": _busy,
    "fails": _fails,
    "refuses": _refuses,
    "half_characters": _half_characters,
    "drips": _drips,
    "comments": _comments,
    "floods": _floods,
    "floods_line": _floods_line,
    "floods_error": _floods_error,
}
