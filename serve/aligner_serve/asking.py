"""Upstreams that may fail: each behind its breaker, and others that are asked in its place."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from aligner.generation import Messages, Sampling
from aligner_serve.breaker import Breaker
from aligner_serve.config.graph import GraphConfig
from aligner_serve.pieces import (
    BUSY,
    CUT_SHORT,
    EMPTY,
    TIMEOUT,
    TOO_LONG,
    Delta,
    Failed,
    Finished,
    Piece,
)
from aligner_serve.stages import AskableUpstream

BREAKER_OPEN: Final = "breaker_open"

_WAY_BACK_SHARE: Final = 0.05
_WAY_BACK_S: Final = 0.5
"""Part of the time, and the most of it, that is kept for telling a failure in time."""

_OF_THE_REQUEST: Final = frozenset({"no_text", "unsuitable", TOO_LONG, CUT_SHORT, EMPTY})
_4XX_OF_THE_UPSTREAM: Final = frozenset({401, 403, 404, 408, 409, 425, 429})
"""It is overloaded, or would refuse every other request as well."""


def blames_upstream(reason: str) -> bool:
    """Whether another request would likely have failed for the same ``reason``."""
    if reason.startswith("http_4"):
        return int(reason.removeprefix("http_")) in _4XX_OF_THE_UPSTREAM
    return reason not in _OF_THE_REQUEST


def breakers_of(config: GraphConfig) -> dict[str, Breaker]:
    """One for each upstream, closed; their states are what a process knows of its upstreams."""
    return {name: Breaker(name, each.breaker) for name, each in config.upstreams.items()}


def with_fallbacks(
    config: GraphConfig,
    upstreams: Mapping[str, AskableUpstream],
    breakers: Mapping[str, Breaker],
) -> dict[str, AskableUpstream]:
    """``upstreams`` behind their breakers, each followed by its fallbacks."""
    guarded = {
        name: Guarded(
            upstream,
            breakers[name],
            name=name,
            max_tokens_limit=config.upstreams[name].max_tokens_limit,
        )
        for name, upstream in upstreams.items()
    }
    return {
        name: InTurn([guarded[one] for one in (name, *config.upstreams[name].fallbacks)])
        for name in upstreams
    }


class Guarded:
    """One upstream behind its breaker."""

    def __init__(
        self, upstream: AskableUpstream, breaker: Breaker, *, name: str, max_tokens_limit: int
    ) -> None:
        """``max_tokens_limit`` holds for requests that were meant for another upstream, too."""
        self._upstream, self._breaker = upstream, breaker
        self._name, self._limit = name, max_tokens_limit

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """One answer, or that there is nobody at the moment."""
        era = self._breaker.admit()
        if era is None:
            yield Failed(BREAKER_OPEN, self._breaker.retry_after_s)
            return
        now = asyncio.get_running_loop().time
        # Whoever asks may stop waiting just before the upstream admits that it was too slow.
        asked_s = deadline_s - min(_WAY_BACK_SHARE * deadline_s, _WAY_BACK_S)
        late_at = now() + asked_s
        if sampling.max_tokens > self._limit:
            sampling = sampling.model_copy(update={"max_tokens": self._limit})
        end: Piece | None = None
        try:
            pieces = self._upstream.ask(messages, sampling, deadline_s=asked_s, stream=stream)
            async with aclosing(pieces):
                async for piece in pieces:
                    end = piece
                    if isinstance(piece, Finished):
                        yield Finished(piece.usage, piece.finish, piece.by or self._name)
                    else:
                        yield piece
        finally:
            if not isinstance(end, Finished | Failed):
                end = Failed(TIMEOUT) if now() >= late_at else None
            self._tell(era, end)

    def _tell(self, era: int, end: Finished | Failed | None) -> None:
        match end:
            case None | Failed(reason="busy"):
                # The client went away, or our own queue is full.
                self._breaker.unknown(era)
            case Failed() if blames_upstream(end.reason):
                self._breaker.failed(era, end.reason, end.retry_after_s or 0.0)
            case _:
                self._breaker.succeeded(era)


class InTurn:
    """Upstreams of which the next is asked when one fails and nothing of it has been shown."""

    def __init__(self, upstreams: Sequence[Guarded]) -> None:
        """The first is the one that is meant."""
        self._upstreams = upstreams

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """The answer of the first that gives one; where none does, the failure of the first."""
        now = asyncio.get_running_loop().time
        ends_at = now() + deadline_s
        first: Failed | None = None
        for upstream in self._upstreams:
            asked = upstream.ask(messages, sampling, deadline_s=ends_at - now(), stream=stream)
            shown, failed, held = False, None, ""
            async with aclosing(asked) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Failed) and not shown:
                        failed = piece
                        break
                    if isinstance(piece, Delta) and not stream:
                        held += piece.text
                        continue
                    if held:
                        yield Delta(held)
                    shown = True
                    yield piece
            if failed is None:
                return
            first = first or failed
            if not (failed.reason == BUSY or blames_upstream(failed.reason)) or now() >= ends_at:
                break
        assert first is not None
        yield first
