"""One request through both stages: ask the upstream, correct its answer, decide what leaves.

Pure: the stages are callables, what they report is data, and nothing here knows HTTP or Ray.
Until the outcome is known nothing of the upstream's answer leaves this module.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Literal, assert_never

from aligner_serve.config import FailurePolicy

Outcome = Literal["corrected", "unchanged", "passthrough", "blocked"]
Stage = Literal["gateway", "upstream", "corrector"]

TIMEOUT: Final = "timeout"
BUSY: Final = "busy"
UNAVAILABLE: Final = "unavailable"
TOO_LONG: Final = "too_long"
CUT_SHORT: Final = "length"
EMPTY: Final = "empty"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a stage read and wrote."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """The upstream's answer."""

    text: str
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a correction."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The correction has come to its own end."""

    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Failed:
    """A stage gave nothing usable; the reason is one word, fit for clients and metrics."""

    reason: str


Ask = Callable[[], Awaitable[Answered | Failed]]
"""Asks the upstream."""

Correct = Callable[[str], AsyncGenerator[Delta | Finished | Failed]]
"""Corrects an answer; ends after the first :class:`Finished` or :class:`Failed`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request may cost, and what happens without a correction."""

    deadline_s: float
    correction_timeout_s: float
    on_failure: FailurePolicy = "passthrough"


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
    usage: Usage = Usage()
    seconds: dict[Stage, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trouble:
    """The end of a request that is answered with an error."""

    stage: Stage
    reason: str
    seconds: dict[Stage, float] = field(default_factory=dict)


async def respond(ask: Ask, correct: Correct, *, terms: Terms) -> Reply | Trouble:
    """Answer one request as a whole."""
    async with aclosing(_run(ask, correct, terms=terms, hold=True)) as events:
        async for event in events:
            if not isinstance(event, Delta):
                return event
    raise AssertionError("a run ends with a Reply or a Trouble")


def stream(ask: Ask, correct: Correct, *, terms: Terms) -> AsyncGenerator[Delta | Reply | Trouble]:
    """Answer one request piece by piece: corrected text only, then one :class:`Reply`.

    Where no :class:`Delta` came before the reply, its text has not been sent yet. A correction
    that breaks off after its first delta ends in :class:`Trouble`, whatever the policy: an
    answer spliced to half a correction would be worse than either.
    """
    return _run(ask, correct, terms=terms, hold=False)


async def _run(
    ask: Ask, correct: Correct, *, terms: Terms, hold: bool
) -> AsyncGenerator[Delta | Reply | Trouble]:
    """With ``hold``, no delta is given: the reply's text is all there is."""
    start = time.monotonic()
    deadline = asyncio.get_running_loop().time() + terms.deadline_s
    answered = await _answer(ask, deadline)
    seconds: dict[Stage, float] = {"upstream": time.monotonic() - start}
    if isinstance(answered, Failed):
        yield Trouble("upstream", answered.reason, seconds)
        return
    start = time.monotonic()
    deadline = min(deadline, asyncio.get_running_loop().time() + terms.correction_timeout_s)
    text, sent = "", 0
    ended: Finished | Failed = Failed(EMPTY)
    async with aclosing(_until(deadline, correct(answered.text))) as pieces:
        async for piece in pieces:
            if not isinstance(piece, Delta):
                ended = piece
                break
            text += piece.text
            # White space alone may turn out to be all there is, which is no correction.
            if not hold and text.strip() and len(text) > sent:
                yield Delta(text[sent:])
                sent = len(text)
    seconds["corrector"] = time.monotonic() - start
    if isinstance(ended, Finished) and text.strip():
        outcome: Outcome = "unchanged" if text == answered.text else "corrected"
        usage = answered.usage + ended.usage
        yield Reply(outcome, text, answered.text, usage=usage, seconds=seconds)
        return
    reason = ended.reason if isinstance(ended, Failed) else EMPTY
    if sent or reason == BUSY:
        # Too much asked at once is no failure of a correction: the client should come back.
        yield Trouble("corrector", reason, seconds)
        return
    yield _without_correction(terms.on_failure, answered, reason, seconds)


async def _answer(ask: Ask, deadline: float) -> Answered | Failed:
    try:
        async with asyncio.timeout_at(deadline):
            return await ask()
    except TimeoutError:
        return Failed(TIMEOUT)


async def _until(
    deadline: float, pieces: AsyncGenerator[Delta | Finished | Failed]
) -> AsyncGenerator[Delta | Finished | Failed]:
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


def _without_correction(
    policy: FailurePolicy, answered: Answered, reason: str, seconds: dict[Stage, float]
) -> Reply | Trouble:
    match policy:
        case "passthrough" | "block":
            passed = policy == "passthrough"
            return Reply(
                outcome="passthrough" if passed else "blocked",
                text=answered.text if passed else "",
                answer=answered.text,
                reason=reason,
                usage=answered.usage,
                seconds=seconds,
            )
        case "error":
            return Trouble("corrector", reason, seconds)
        case _:
            assert_never(policy)
