"""Two versions of one aligner: a canary corrects a share of the requests, a shadow only practises.

Both are correctors around two others, so that the gateway need not know of them.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

from aligner.metrics import similarity
from aligner.records import Question
from aligner_serve.pieces import BUSY, TIMEOUT, UNAVAILABLE, Delta, Failed, Finished, Piece, Reading
from aligner_serve.stages import AskableCorrector

_MAX_COMPARED_CHARS: Final = 5_000
"""Comparing two texts takes time by the product of their lengths, which others would wait for."""

Verdict = Literal["same", "different", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a shadow made of an answer that the champion has corrected. Holds no text."""

    aligner: str
    verdict: Verdict
    champion: str
    """Version that answered."""
    challenger: str = ""
    """Version that was compared with it; empty where none came to an end."""
    similarity: float | None = None
    """Of the two corrections, over words; ``None`` where there are not two, or very long ones."""
    reason: str | None = None
    """Why the challenger failed."""


class Canary:
    """Gives a share of the conversations to the challenger, always the same ones."""

    def __init__(
        self,
        champion: AskableCorrector,
        challenger: AskableCorrector,
        *,
        aligner: str,
        share: float,
    ) -> None:
        """``share`` of all conversations, drawn apart for each name of an aligner."""
        self._champion = champion
        self._challenger = challenger
        self._aligner = aligner
        self._share = share

    async def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        """One correction; a challenger that cannot be reached costs nothing but its turn."""
        clock = asyncio.get_running_loop().time
        until = clock() + deadline_s
        if self._is_tried(question):
            given = False
            tried = self._challenger.correct(
                question, answer, deadline_s=deadline_s, stream=stream, session=session
            )
            async with aclosing(tried) as pieces:
                async for piece in pieces:
                    if not given and isinstance(piece, Failed) and piece.reason in _NOT_THERE:
                        break
                    given = True
                    yield piece
                else:
                    return
        left_s = max(0.0, until - clock())
        corrected = self._champion.correct(
            question, answer, deadline_s=left_s, stream=stream, session=session
        )
        async with aclosing(corrected) as pieces:
            async for piece in pieces:
                yield piece

    async def ahead(
        self, question: Question, answer: str, *, tokens: int, deadline_s: float, session: str
    ) -> Reading:
        """By the version that is to correct the pair."""
        who = self._challenger if self._is_tried(question) else self._champion
        return await who.ahead(
            question, answer, tokens=tokens, deadline_s=deadline_s, session=session
        )

    async def check_health(self) -> bool:
        """Of the champion, who stands in for the challenger."""
        return await self._champion.check_health()

    def _is_tried(self, question: Question) -> bool:
        first = question.history[0].text if question.history else question.question
        return drawn(self._aligner, first, share=self._share)


_NOT_THERE: Final = (UNAVAILABLE, BUSY)


class Shadow:
    """Lets the champion answer, and the challenger correct the same afterwards, for comparison.

    Nobody waits for the challenger, and what it does not get to at once it never does.
    """

    def __init__(
        self,
        champion: AskableCorrector,
        challenger: AskableCorrector,
        *,
        aligner: str,
        share: float,
        max_ongoing: int,
        compared: Callable[[Comparison], None],
    ) -> None:
        """Compare ``share`` of the requests, ``max_ongoing`` at once; further ones are skipped."""
        self._champion = champion
        self._challenger = challenger
        self._aligner = aligner
        self._share = share
        self._max_ongoing = max_ongoing
        self._compared = compared
        self._ongoing: set[asyncio.Task[None]] = set()

    async def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        """The champion's correction, piece by piece as it comes."""
        text = ""
        corrected = self._champion.correct(
            question, answer, deadline_s=deadline_s, stream=stream, session=session
        )
        async with aclosing(corrected) as pieces:
            async for piece in pieces:
                match piece:
                    case Delta(text=more):
                        text += more
                    case Finished(by=by) if random.random() < self._share:
                        again = self._challenger.correct(
                            question, answer, deadline_s=deadline_s, stream=False
                        )
                        self._practise(again, champion=by, text=text, deadline_s=deadline_s)
                yield piece

    async def ahead(
        self, question: Question, answer: str, *, tokens: int, deadline_s: float, session: str
    ) -> Reading:
        """By the champion: nobody waits for the other."""
        return await self._champion.ahead(
            question, answer, tokens=tokens, deadline_s=deadline_s, session=session
        )

    async def check_health(self) -> bool:
        """Of the champion: the challenger is nobody's answer."""
        return await self._champion.check_health()

    async def settle(self) -> None:
        """Return when every comparison that has begun is done."""
        await asyncio.gather(*self._ongoing)

    def _practise(
        self, again: AsyncGenerator[Piece], *, champion: str, text: str, deadline_s: float
    ) -> None:
        if len(self._ongoing) >= self._max_ongoing:
            self._compared(Comparison(self._aligner, "skipped", champion))
            return
        task = asyncio.create_task(self._compare(again, champion, text, deadline_s))
        # The loop itself remembers a task only weakly.
        self._ongoing.add(task)
        task.add_done_callback(self._ongoing.discard)

    async def _compare(
        self, again: AsyncGenerator[Piece], champion: str, text: str, deadline_s: float
    ) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                other, end = await whole(again)
        except TimeoutError:
            other, end = "", Failed(TIMEOUT)
        if isinstance(end, Failed):
            self._compared(Comparison(self._aligner, "failed", champion, reason=end.reason))
            return
        alike = None
        if max(len(text), len(other)) <= _MAX_COMPARED_CHARS:
            alike = similarity(text, other)
        verdict: Verdict = "same" if text == other else "different"
        self._compared(Comparison(self._aligner, verdict, champion, end.by, alike))


def drawn(*key: str, share: float) -> bool:
    """Whether ``key`` is among the ``share`` of all keys: the same here and on every machine."""
    digest = hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


async def whole(pieces: AsyncGenerator[Piece]) -> tuple[str, Finished | Failed]:
    """The text of all deltas, and what ended it."""
    text = ""
    async with aclosing(pieces):
        async for piece in pieces:
            if not isinstance(piece, Delta):
                return text, piece
            text += piece.text
    return text, Failed(UNAVAILABLE)
