"""One request through its stages: ask the upstream, correct its answer, decide what leaves.

Pure: the stages are callables, what they report is data, and nothing here knows HTTP or Ray.
Until the outcome is known nothing of the upstream's answer leaves this module.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, assert_never

from aligner_serve.config.aligner import FailurePolicy
from aligner_serve.pieces import (
    BUSY,
    EMPTY,
    NOTHING_SAVED,
    TIMEOUT,
    Delta,
    Failed,
    Finish,
    Finished,
    Piece,
    Savings,
    Usage,
)

Outcome = Literal["corrected", "unchanged", "passthrough", "blocked"]
Stage = Literal["gateway", "upstream", "corrector"]

RAW: Final = "raw"
"""Why an answer passes where nobody asked for a correction."""


Ask = Callable[[float], AsyncGenerator[Piece]]
"""Asks the upstream, which has so many seconds; closing the generator cancels the request."""

Correct = Callable[[str, float], AsyncGenerator[Piece]]
"""Corrects an answer within so many seconds; closing the generator cancels it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One aligner's part of a request."""

    name: str
    correct: Correct
    timeout_s: float
    on_failure: FailurePolicy = "passthrough"
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a request as a whole."""

    deadline_s: float
    correction_share: float = 0.0
    """Part of the deadline that the upstream may not use up."""
    stop: tuple[str, ...] = ()
    """What the client gets ends before the first of these."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one call of an upstream or an aligner came to."""

    stage: Stage
    name: str
    round: int
    ms: float
    usage: Usage
    by: str
    reason: str | None = None
    """Why it failed."""
    savings: Savings = NOTHING_SAVED
    """Of a corrector."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a request that is answered."""

    outcome: Outcome
    text: str
    """What the client gets; empty where it is withheld."""
    answer: str
    """The upstream's own."""
    reason: str | None = None
    """Why there is no correction; ``None`` where there is one."""
    finish: Finish = "stop"
    stages: tuple[StageReport, ...] = ()

    @property
    def usage(self) -> Usage:
        """Tokens of all stages together."""
        return sum((stage.usage for stage in self.stages), Usage())


@dataclass(frozen=True, slots=True)
class Trouble:
    """The end of a request that is answered with an error."""

    stage: Stage
    reason: str
    retry_after_s: float | None = None
    stages: tuple[StageReport, ...] = ()


async def respond(
    ask: Ask, steps: Sequence[Step], *, upstream: str, terms: Terms
) -> Reply | Trouble:
    """Answer one request as a whole; ``upstream`` is a name for the report."""
    run = _Run(upstream, terms, hold=True)
    async with aclosing(run.events(ask, steps)) as events:
        async for event in events:
            if not isinstance(event, Delta):
                return event
    raise AssertionError("a run ends with a Reply or a Trouble")


def stream(
    ask: Ask, steps: Sequence[Step], *, upstream: str, terms: Terms
) -> AsyncGenerator[Delta | Reply | Trouble]:
    """Answer one request piece by piece: corrected text only, then one :class:`Reply`.

    Without ``steps`` it is the answer itself. Where no :class:`Delta` came before the reply, its
    text has not been sent yet. A correction that breaks off after its first delta ends in
    :class:`Trouble`, whatever the policy: an answer spliced to half a correction would be worse
    than either.
    """
    return _Run(upstream, terms, hold=False).events(ask, steps)


_NOTHING_CAME: Final = Failed(EMPTY)


@dataclass(slots=True)
class _Call:
    """One stage at work."""

    pieces: AsyncGenerator[Piece]
    until: float
    text: str = ""
    ended: Finished | Failed = _NOTHING_CAME
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    async def deltas(self) -> AsyncGenerator[None]:
        """Give a turn to the caller whenever ``text`` has grown."""
        async with aclosing(_until(self.until, self.pieces)) as pieces:
            async for piece in pieces:
                if not isinstance(piece, Delta):
                    self.ended = piece
                    return
                self.text += piece.text
                yield

    def report(self, stage: Stage, name: str, turn: int) -> StageReport:
        """What it came to."""
        ms = 1000 * (asyncio.get_running_loop().time() - self.started)
        match self.ended:
            case Finished(usage=usage, by=by, savings=savings):
                return StageReport(stage, name, turn, ms, usage, by, savings=savings)
            case Failed(reason=reason):
                return StageReport(stage, name, turn, ms, Usage(), "", reason)


class _Outlet:
    """What of a growing text may leave already: neither a stop sequence nor the start of one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self.sent = 0

    def cut(self, text: str) -> str:
        """``text`` up to the first stop sequence."""
        return text[: min((at for at in map(text.find, self._stop) if at >= 0), default=None)]

    def take(self, text: str) -> Delta | None:
        """The part of ``text`` that has not left yet and now may."""
        # White space alone may turn out to be all there is, which is no correction.
        if not text.strip():
            return None
        whole = self.cut(text)
        end = len(whole) if len(whole) < len(text) else len(text) - self._held(text)
        return self._give(text, end)

    def rest(self, text: str) -> Delta | None:
        """What is missing at the end of a text of which something has left."""
        return self._give(text, len(text)) if self.sent else None

    def _held(self, text: str) -> int:
        """Characters at the end of ``text`` that may be the beginning of a stop sequence."""
        longest = max(map(len, self._stop), default=1) - 1
        return next(
            (n for n in range(min(longest, len(text)), 0, -1) if self._begins(text[-n:])), 0
        )

    def _begins(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stop)

    def _give(self, text: str, end: int) -> Delta | None:
        if end <= self.sent:
            return None
        delta = Delta(text[self.sent : end])
        self.sent = end
        return delta


class _Run:
    """One request; with ``hold`` no delta is given: the reply's text is all there is."""

    def __init__(self, upstream: str, terms: Terms, *, hold: bool) -> None:
        self._upstream, self._terms, self._hold = upstream, terms, hold
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + terms.deadline_s
        self._outlet = _Outlet(terms.stop)
        self._stages: list[StageReport] = []
        self._text = ""
        """The last that is whole: the answer, or a correction of it."""
        self._failed: tuple[Step, Failed] | None = None

    async def events(
        self, ask: Ask, steps: Sequence[Step]
    ) -> AsyncGenerator[Delta | Reply | Trouble]:
        kept_s = self._terms.correction_share * self._terms.deadline_s if steps else 0.0
        answered = self._call(ask, self._deadline - kept_s)
        async with aclosing(answered.deltas()) as grown:
            async for _ in grown:
                if not steps and (delta := self._leaving(answered.text)):
                    yield delta
        self._stages.append(answered.report("upstream", self._upstream, 1))
        if isinstance(answered.ended, Failed):
            yield self._trouble("upstream", answered.ended)
            return
        self._text = answered.text
        async with aclosing(self._corrections(steps)) as deltas:
            async for delta in deltas:
                yield delta
        end = self._end(answered.text, answered.ended.finish, asked=bool(steps))
        if isinstance(end, Reply) and (rest := self._outlet.rest(end.text)):
            yield rest
        yield end

    async def _corrections(self, steps: Sequence[Step]) -> AsyncGenerator[Delta]:
        """Go through ``steps``; only what the very last call decodes may leave at once."""
        for step in steps:
            for turn in range(1, step.rounds + 1):
                last = step is steps[-1] and turn == step.rounds
                call = self._call(
                    partial(step.correct, self._text),
                    min(self._deadline, self._clock() + step.timeout_s),
                )
                async with aclosing(call.deltas()) as grown:
                    async for _ in grown:
                        if last and (delta := self._leaving(call.text)):
                            yield delta
                if isinstance(call.ended, Finished) and not call.text.strip():
                    call.ended = Failed(EMPTY)
                self._stages.append(call.report("corrector", step.name, turn))
                if isinstance(call.ended, Failed):
                    self._failed = step, call.ended
                    return
                if call.text == self._text:
                    break
                self._text = call.text

    def _call(self, stage: Ask, until: float) -> _Call:
        return _Call(stage(until - self._clock()), until)

    def _leaving(self, text: str) -> Delta | None:
        return None if self._hold else self._outlet.take(text)

    def _end(self, answer: str, finish: Finish, *, asked: bool) -> Reply | Trouble:
        """``asked`` tells whether the answer was to be corrected at all."""
        if self._failed is not None:
            return self._without_correction(*self._failed, answer, finish)
        if not asked:
            return self._reply("passthrough", answer, RAW, finish)
        if self._text == answer:
            return self._reply("unchanged", answer, None, finish)
        return self._reply("corrected", answer, None, "stop")

    def _without_correction(
        self, step: Step, failed: Failed, answer: str, finish: Finish
    ) -> Reply | Trouble:
        # Too much asked at once is no failure of a correction: the client should come back.
        if self._outlet.sent or failed.reason == BUSY:
            return self._trouble("corrector", failed)
        match step.on_failure:
            case "passthrough":
                return self._reply("passthrough", answer, failed.reason, finish)
            case "block":
                self._text = ""
                return self._reply("blocked", answer, failed.reason, "stop")
            case "error":
                return self._trouble("corrector", failed)
            case _:
                assert_never(step.on_failure)

    def _reply(self, outcome: Outcome, answer: str, reason: str | None, finish: Finish) -> Reply:
        text = self._outlet.cut(self._text)
        return Reply(outcome, text, answer, reason, finish, tuple(self._stages))

    def _trouble(self, stage: Stage, failed: Failed) -> Trouble:
        return Trouble(stage, failed.reason, failed.retry_after_s, tuple(self._stages))


async def _until(deadline: float, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """``pieces`` up to ``deadline``, then a failure; closing it closes ``pieces``."""
    async with aclosing(pieces):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                yield Failed(TIMEOUT)
                return
            yield piece
