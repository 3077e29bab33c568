"""A corrector's deployment without an engine: it takes a fixed time, and tells when it began."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from typing import Any

from aligner.records import Question
from aligner_serve.pieces import Delta, Failed, Finished, Piece, Usage, gathered

LATENCY_ENV = "FIXED_CORRECTOR_LATENCY_S"
FAILING = ("broken", "strict")
"""Aligners that have no correction."""


class FixedCorrector:
    """Stands where :class:`~aligner_serve.corrector.Corrector` does."""

    def __init__(self, served: dict[str, Any], cache: str) -> None:
        """As Serve makes the real one."""
        self._latency_s = float(os.environ[LATENCY_ENV])

    async def check_health(self) -> None:
        """Always well."""

    async def correct(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """The answer again, behind the time at which its first piece was ready."""
        await asyncio.sleep(self._latency_s)
        if aligner in FAILING:
            yield Failed("too_long")
            return
        words = answer.split() if stream else [answer]
        yield Delta(f"{time.monotonic_ns()} ")
        for word in words:
            yield Delta(f"{word} ")
        yield Finished(Usage(30, 20), by="models:/fixed/1")

    async def correct_whole(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float
    ) -> list[Piece]:
        """As the real one."""
        return await gathered(
            self.correct(aligner, question, answer, deadline_s=deadline_s, stream=False)
        )
