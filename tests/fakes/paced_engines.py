"""Deployments that take as long as an engine would, and tell their load as one does.

Several real engines on a few cores share these cores, so that more replicas would show nothing.
Here each has a speed of its own: one prompt is read at a time, a limited number of texts are
written together, all further ones wait. What is written is as long as it is asked for.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from aligner.generation import Messages, Sampling
from aligner.records import Question
from aligner_serve.first_tokens import FirstTokens
from aligner_serve.pieces import Delta, Finished, Piece, Usage, gathered
from aligner_serve.scaling_policy import FIRST_TOKEN_S, QUEUED_TOKENS

READS_PER_S: Final = 6000.0
"""Tokens of prompts, all requests together."""
WRITES_PER_S: Final = 120.0
"""Tokens of one text."""
TOGETHER: Final = 8
"""Texts written at the same time."""
_CHUNK: Final = 24


class PacedEngine:
    """The speed of one replica."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._writing = asyncio.Semaphore(TOGETHER)
        self._queued_tokens = 0
        self._first_tokens = FirstTokens()

    async def check_health(self) -> None:
        """Always well."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        """As a real one's."""
        return {QUEUED_TOKENS: self._queued_tokens, FIRST_TOKEN_S: self._first_tokens.seconds()}

    async def _work(self, prompt_tokens: int, words: list[str], by: str) -> AsyncGenerator[Piece]:
        left = prompt_tokens + len(words)
        self._queued_tokens += left
        call = self._first_tokens.called()
        try:
            async with self._writing:
                async with self._reading:
                    await asyncio.sleep(prompt_tokens / READS_PER_S)
                self._queued_tokens, left = self._queued_tokens - prompt_tokens, len(words)
                for begin in range(0, len(words), _CHUNK):
                    chunk = words[begin : begin + _CHUNK]
                    await asyncio.sleep(len(chunk) / WRITES_PER_S)
                    self._first_tokens.came(call)
                    self._queued_tokens, left = self._queued_tokens - len(chunk), left - len(chunk)
                    yield Delta("".join(chunk))
            yield Finished(Usage(prompt_tokens, len(words)), by=by)
        finally:
            self._queued_tokens -= left
            self._first_tokens.over(call)


class PacedUpstream(PacedEngine):
    """Stands where :class:`~aligner_serve.upstream_engine.UpstreamEngine` does."""

    def __init__(self, name: str, upstream: dict[str, Any], cache: str) -> None:
        """As Serve makes the real one."""
        super().__init__()
        self._name = name

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """An answer of ``max_tokens`` words."""
        words = ["word "] * sampling.max_tokens
        async for piece in self._work(_tokens(messages[-1]["content"]), words, self._name):
            yield piece

    async def ask_whole(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float
    ) -> list[Piece]:
        """As the real one."""
        return await gathered(self.ask(messages, sampling, deadline_s=deadline_s, stream=False))


class PacedCorrector(PacedEngine):
    """Stands where :class:`~aligner_serve.corrector.Corrector` does."""

    def __init__(self, served: dict[str, Any], cache: str) -> None:
        """As Serve makes the real one."""
        super().__init__()

    async def correct(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """The answer again, in other words."""
        words = ["better "] * len(answer.split())
        async for piece in self._work(
            _tokens(question.question) + len(words), words, "models:/paced/1"
        ):
            yield piece

    async def correct_whole(
        self, aligner: str, question: Question, answer: str, *, deadline_s: float
    ) -> list[Piece]:
        """As the real one."""
        return await gathered(
            self.correct(aligner, question, answer, deadline_s=deadline_s, stream=False)
        )


def _tokens(text: str) -> int:
    return len(text.split())
