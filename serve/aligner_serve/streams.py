"""Streamed replies: the choices of a request as one stream of events that never falls silent."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, assert_never

from fastapi.responses import Response, StreamingResponse

from aligner_serve import replies, responses, sse, wire
from aligner_serve.pieces import Delta, Usage
from aligner_serve.pipeline import Reply, Trouble

_LOG: Final = logging.getLogger(__name__)

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
    merged = _Merged(choices, heartbeat_s)
    try:
        merged.start()
        first = await merged.get()
    except BaseException:
        await merged.aclose()
        raise
    known: dict[str, str] = {}
    match first:
        case (_, Trouble() as trouble):
            await merged.aclose()
            said(trouble, shown=shown)
            return responses.trouble(trouble)
        case (_, Reply() as reply) if len(choices) == 1:
            known = responses.headers(reply, None)
    return StreamingResponse(
        _bytes(sse.Chunks(request), merged, first, partial(said, shown=shown)),
        media_type="text/event-stream",
        # A proxy in between must not gather what is sent piece by piece.
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **known},
    )


async def _bytes(
    chunks: sse.Chunks,
    merged: "_Merged",
    first: tuple[int, Event] | None,
    said: Callable[[Reply | Trouble], replies.AlignerReport | None],
) -> AsyncIterator[bytes]:
    """The stream from its first byte to its last."""
    async with contextlib.aclosing(merged):
        for index in range(len(merged.choices)):
            if role := chunks.role(index):
                yield role
        try:
            got, usage, left = first, Usage(), len(merged.choices)
            while True:
                if got is None:
                    yield sse.HEARTBEAT
                else:
                    for data in _events(chunks, merged.choices[got[0]], *got, said):
                        yield data
                    match got[1]:
                        case Trouble():
                            break
                        case Reply() as reply:
                            left, usage = left - 1, usage + reply.usage
                            if not left:
                                yield chunks.usage(usage)
                                break
                got = await merged.get()
        except Exception as exc:
            # The status has gone out long ago; the client must still learn that this is no end.
            _LOG.error("a stream failed: %s", type(exc).__name__)
            yield sse.event(responses.fault_body().model_dump())
    yield sse.DONE


def _events(
    chunks: sse.Chunks,
    choice: Choice,
    index: int,
    event: Event,
    said: Callable[[Reply | Trouble], replies.AlignerReport | None],
) -> Iterator[bytes]:
    """What ``event`` looks like to the client."""
    match event:
        case Delta():
            choice.sent = True
            yield chunks.text(index, event.text)
        case Trouble():
            said(event)
            # Half a correction may have left; it is called a failure, not patched.
            yield sse.event(responses.trouble_body(event).model_dump())
        case Reply():
            told = said(event)
            assert told is not None
            if event.outcome == "blocked":
                yield chunks.refusal(index, replies.REFUSAL)
            elif not choice.sent:
                yield chunks.text(index, event.text)
            yield chunks.last(index, replies.finish_reason(event), told)
        case _:
            assert_never(event)


class _Merged:
    """The events of several choices, each with the number of its choice, as they come."""

    def __init__(self, choices: Sequence[Choice], patience_s: float) -> None:
        self.choices, self._patience_s = choices, patience_s
        self._queue: asyncio.Queue[tuple[int, Event] | BaseException] = asyncio.Queue(maxsize=64)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; what was begun ends with :meth:`aclose`."""
        self._tasks = [
            asyncio.create_task(self._read(index, choice))
            for index, choice in enumerate(self.choices)
        ]

    async def get(self) -> tuple[int, Event] | None:
        """The next event; nothing if there is none for a while."""
        try:
            async with asyncio.timeout(self._patience_s):
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
