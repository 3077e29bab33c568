"""Streamed replies: the choices of a request as one stream of events that never falls silent."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastapi.responses import Response, StreamingResponse

from aligner_serve import replies, responses, sse, wire
from aligner_serve.pipeline import Delta, Reply, Trouble, Usage

Event = Delta | Reply | Trouble


@dataclass(slots=True)
class Choice:
    """One run of the pipeline, and whether something of it has been sent."""

    events: AsyncGenerator[Event]
    sent: bool = False


class Said(Protocol):
    """Hears how a choice ended, and makes the report of it."""

    def __call__(self, end: Reply | Trouble, *, shown: bool) -> replies.AlignerReport | None: ...


async def streamed(
    request: wire.ChatRequest | wire.CompletionRequest,
    choices: Sequence[Choice],
    said: Said,
    *,
    shown: bool,
    heartbeat_s: float,
) -> Response:
    """Wait for the first event, at most a heartbeat: what fails before it is an HTTP status."""
    merged = _Merged(choices)
    merged.start()
    try:
        first = await merged.get(heartbeat_s)
    except BaseException:
        await merged.aclose()
        raise
    if first is not None and isinstance(first[1], Trouble):
        await merged.aclose()
        said(first[1], shown=shown)
        return responses.trouble(first[1])
    known: dict[str, str] = {}
    if first is not None and isinstance(first[1], Reply) and len(choices) == 1:
        known = responses.headers(first[1], None)
    return StreamingResponse(
        _bytes(request, merged, first, said, shown=shown, heartbeat_s=heartbeat_s),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **known},
    )


async def _bytes(
    request: wire.ChatRequest | wire.CompletionRequest,
    merged: "_Merged",
    first: tuple[int, Event] | None,
    said: Said,
    *,
    shown: bool,
    heartbeat_s: float,
) -> AsyncIterator[bytes]:
    chunks = sse.Chunks(request)
    usage, left = Usage(), len(merged.choices)
    async with contextlib.aclosing(merged):
        for index in range(left):
            if role := chunks.role(index):
                yield role
        got = first
        while left:
            if got is None:
                yield sse.HEARTBEAT
            else:
                index, event = got
                choice = merged.choices[index]
                match event:
                    case Delta():
                        choice.sent = True
                        yield chunks.text(index, event.text)
                    case Trouble():
                        said(event, shown=shown)
                        # Half a correction may have left; it is called a failure, not patched.
                        yield sse.event(responses.trouble_body(event).model_dump())
                        break
                    case Reply():
                        left -= 1
                        usage += event.usage
                        told = said(event, shown=shown)
                        assert told is not None
                        for piece in _ending(chunks, index, event, told, sent=choice.sent):
                            yield piece
            if left:
                got = await merged.get(heartbeat_s)
        else:
            if counted := chunks.usage(usage):
                yield counted
    yield sse.DONE


def _ending(
    chunks: sse.Chunks, index: int, end: Reply, told: replies.AlignerReport, *, sent: bool
) -> list[bytes]:
    """The last events of a choice."""
    events = []
    if end.outcome == "blocked":
        events.append(chunks.refusal(index, replies.REFUSAL))
    elif not sent:
        events.append(chunks.text(index, end.text))
    events.append(chunks.last(index, replies.finish_reason(end), told))
    return [event for event in events if event]


class _Merged:
    """The events of several choices, each with the number of its choice, as they come."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = choices
        self._queue: asyncio.Queue[tuple[int, Event] | BaseException] = asyncio.Queue(maxsize=64)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; what was begun ends with :meth:`aclose`."""
        self._tasks = [
            asyncio.create_task(self._read(index, choice))
            for index, choice in enumerate(self.choices)
        ]

    async def get(self, patience_s: float) -> tuple[int, Event] | None:
        """The next event; nothing if it takes longer than ``patience_s``."""
        try:
            async with asyncio.timeout(patience_s):
                got = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(got, BaseException):
            raise got
        return got

    async def aclose(self) -> None:
        """Cancel what is still going on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, index: int, choice: Choice) -> None:
        try:
            async with contextlib.aclosing(choice.events) as events:
                async for event in events:
                    await self._queue.put((index, event))
        except Exception as exc:
            await self._queue.put(exc)
