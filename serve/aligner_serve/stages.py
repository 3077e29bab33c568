"""What the gateway needs of upstreams and correctors, wherever they are."""

from collections.abc import AsyncGenerator
from typing import Protocol

from aligner.generation import Messages, Sampling
from aligner.records import Question
from aligner_serve.pieces import Piece, Reading


class AskableUpstream(Protocol):
    """What the gateway needs of an upstream."""

    def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """One answer within ``deadline_s``; without ``stream`` it may come as one delta."""


class AskableCorrector(Protocol):
    """What the gateway needs of a corrector."""

    def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        """One correction within ``deadline_s``; without ``stream`` it may come as one delta.

        Those of one ``session`` go to the same replica while that can be had.
        """

    async def ahead(
        self, question: Question, answer: str, *, tokens: int, deadline_s: float, session: str
    ) -> Reading:
        """Read a pair of which ``answer`` is only the beginning; raises nothing.

        ``tokens`` of its prompt were read before, in the same ``session``.
        """

    async def check_health(self) -> bool:
        """Whether it can correct now."""
