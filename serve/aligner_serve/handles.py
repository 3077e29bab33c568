"""Ray Serve's handles as the pipeline's callables: what a deployment cannot do becomes data.

What nobody wants piece by piece comes in one message: a stream between processes costs several.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final

from grpc import RpcError
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from aligner.generation import Messages, Sampling
from aligner.records import Question
from aligner_serve.pieces import BUSY, READ_NOTHING, UNAVAILABLE, Delta, Failed, Piece, Reading

_TRIES: Final = 2

_GONE: Final = (RayError, RayServeException, RpcError)
"""What a call raises whose replica has died, is being replaced, or cannot be reached."""


class UpstreamHandle:
    """An upstream's deployment elsewhere in the cluster."""

    def __init__(self, handle: Any) -> None:
        """``handle`` is a Ray Serve ``DeploymentHandle``."""
        self._handle, self._streaming = handle, handle.options(stream=True)

    def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """One answer; closing the generator cancels the request there."""
        if stream:
            asked = partial(self._streaming.ask.remote, stream=True)
            return _pieces(partial(asked, messages, sampling, deadline_s=deadline_s))
        whole = self._handle.ask_whole.remote
        return _whole(partial(whole, messages, sampling, deadline_s=deadline_s))


class CorrectorHandle:
    """One aligner of a :class:`~aligner_serve.corrector.Corrector` elsewhere in the cluster."""

    def __init__(self, handle: Any, aligner: str) -> None:
        """``handle`` is a Ray Serve ``DeploymentHandle``."""
        self._handle, self._aligner = handle, aligner
        self._streaming = handle.options(stream=True)

    def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        """One correction; closing the generator cancels it there."""
        handle = self._streaming if stream else self._handle
        if session:
            handle = handle.options(session_id=session)
        if stream:
            asked = partial(handle.correct.remote, stream=True)
            return _pieces(partial(asked, self._aligner, question, answer, deadline_s=deadline_s))
        whole = handle.correct_whole.remote
        return _whole(partial(whole, self._aligner, question, answer, deadline_s=deadline_s))

    async def ahead(
        self, question: Question, answer: str, *, tokens: int, deadline_s: float, session: str
    ) -> Reading:
        """Read the beginning of a pair; cancelling ends the work on it there."""
        handle = self._handle.options(session_id=session)
        response = handle.ahead.remote(
            self._aligner, question, answer, tokens=tokens, deadline_s=deadline_s
        )
        try:
            reading: Reading = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except _GONE:
            return READ_NOTHING
        return reading

    async def check_health(self) -> bool:
        """Whether a replica answers and its engine runs."""
        try:
            await self._handle.check_health.remote()
        except _GONE:
            return False
        return True


async def _pieces(call: Callable[[], Any]) -> AsyncGenerator[Piece]:
    """What ``call`` streams; a replica that dies before its first piece is replaced once."""
    for left in reversed(range(_TRIES)):
        pieces, given, ended = call(), False, False
        try:
            async for piece in pieces:
                given, ended = True, not isinstance(piece, Delta)
                yield piece
            return
        except BackPressureError:
            ended = True
            yield Failed(BUSY)
            return
        except _GONE:
            ended = True
            if given or not left:
                yield Failed(UNAVAILABLE)
                return
        finally:
            if not ended:
                pieces.cancel()


async def _whole(call: Callable[[], Any]) -> AsyncGenerator[Piece]:
    """What ``call`` returns; a replica that dies is replaced once."""
    for left in reversed(range(_TRIES)):
        response = call()
        try:
            pieces: list[Piece] = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            pieces = [Failed(BUSY)]
        except _GONE:
            if left:
                continue
            pieces = [Failed(UNAVAILABLE)]
        for piece in pieces:
            yield piece
        return
