"""Reading ahead: the corrector reads what the upstream has written so far, while it writes on.

A reading decides nothing and shows nothing: it leaves the beginning of the correction's prompt in
the engine's cache. One that fails, or comes too late, costs its own work and nothing else.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from aligner_serve.asking import blames_upstream
from aligner_serve.config.ahead import PrefillAheadConfig
from aligner_serve.pieces import Delta, Failed, Finished, Piece, Reading

ReadBegun = Callable[[str, int], Awaitable[Reading]]
"""Reads a pair whose answer begins so and of whose prompt so many tokens have been read before."""

ReadingTold = Callable[[str, Reading], None]
"""Hears of each reading of an aligner at its end."""


def untold(aligner: str, reading: Reading) -> None:
    """Do nothing."""


class AskEither(Protocol):
    """Asks an upstream."""

    def __call__(self, deadline_s: float, *, stream: bool) -> AsyncGenerator[Piece]:
        """One answer, as a stream or as a whole."""


class Ahead:
    """The readings of one request, one after the other."""

    def __init__(
        self,
        read: ReadBegun,
        *,
        settings: PrefillAheadConfig,
        chars_before: int,
        places: asyncio.Semaphore,
        told: Callable[[Reading], None],
    ) -> None:
        """``chars_before`` the answer; ``places`` are shared by all requests; ``told`` hears of
        each reading at its end.
        """
        self._read = read
        self._wanted = settings.min_new_chars
        self._before = chars_before
        self._places = places
        self._told = told
        self._chars = self._tokens = 0
        """Of the prompt, read so far."""
        self._reading: asyncio.Task[None] | None = None

    def grown(self, answer: str) -> None:
        """The upstream has got so far; read that, unless there is too little to read."""
        busy = self._reading is not None and not self._reading.done()
        if busy or self._places.locked():
            return
        if self._before + len(answer) - self._chars >= self._wanted:
            self._reading = asyncio.create_task(self._one(answer))

    def end(self) -> None:
        """Drop what is under way: the answer is whole now, or nobody wants it any more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _one(self, answer: str) -> None:
        async with self._places:
            reading = Reading("dropped")
            try:
                reading = await self._read(answer, self._tokens)
            finally:
                self._told(reading)
        match reading.result:
            case "read" | "nothing_new":
                self._tokens = reading.tokens
            case _:
                # Whoever has no time now is left alone for longer.
                self._wanted *= 2
        self._chars = self._before + len(answer)


async def overheard(ask: AskEither, ahead: Ahead, deadline_s: float) -> AsyncGenerator[Piece]:
    """The answer as a whole, read ahead while it comes.

    One that breaks off in the middle is asked for once more: nobody has seen anything of it.
    """
    now = asyncio.get_running_loop().time
    ends_at, text = now() + deadline_s, ""
    try:
        async with aclosing(ask(deadline_s, stream=True)) as pieces:
            async for piece in pieces:
                match piece:
                    case Delta(text=more):
                        text += more
                        ahead.grown(text)
                    case Failed(reason=reason) if text and blames_upstream(reason):
                        break
                    case Finished() | Failed():
                        ahead.end()
                        if text and isinstance(piece, Finished):
                            yield Delta(text)
                        yield piece
                        return
            else:
                return
    finally:
        ahead.end()
    async with aclosing(ask(max(0.0, ends_at - now()), stream=False)) as pieces:
        async for piece in pieces:
            yield piece
