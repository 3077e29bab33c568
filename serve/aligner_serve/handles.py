"""Ray Serve's handles as the pipeline's callables: what a deployment cannot do becomes data."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from aligner.generation import Messages, Sampling
from aligner.records import Turn
from aligner_serve.pipeline import (
    BUSY,
    UNAVAILABLE,
    Answered,
    Delta,
    Failed,
    Finished,
)


class UpstreamHandle:
    """An :class:`~aligner_serve.upstream.Upstream` elsewhere in the cluster."""

    def __init__(self, handle: Any) -> None:
        """``handle`` is a Ray Serve ``DeploymentHandle``."""
        self._handle = handle

    async def ask(self, messages: Messages, sampling: Sampling) -> Answered | Failed:
        """One answer; cancelling it cancels the request there."""
        response = self._handle.ask.remote(messages, sampling.model_dump(mode="json"))
        try:
            answered: Answered | Failed = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            return Failed(BUSY)
        except (RayError, RayServeException):
            return Failed(UNAVAILABLE)
        return answered


class CorrectorHandle:
    """A :class:`~aligner_serve.corrector.Corrector` elsewhere in the cluster."""

    def __init__(self, handle: Any) -> None:
        """``handle`` is a Ray Serve ``DeploymentHandle``."""
        self._handle = handle

    async def correct(
        self, question: str, answer: str, history: Sequence[Turn], *, stream: bool
    ) -> AsyncGenerator[Delta | Finished | Failed]:
        """One correction; closing the generator cancels it there."""
        pieces = self._handle.options(stream=True).correct.remote(
            question, answer, tuple(history), stream
        )
        ended = False
        try:
            async for piece in pieces:
                ended = not isinstance(piece, Delta)
                yield piece
        except BackPressureError:
            ended = True
            yield Failed(BUSY)
        except (RayError, RayServeException):
            ended = True
            yield Failed(UNAVAILABLE)
        finally:
            if not ended:
                pieces.cancel()

    async def check_health(self) -> bool:
        """Whether a replica answers and its engine runs."""
        try:
            await self._handle.check_health.remote()
        except (RayError, RayServeException):
            return False
        return True
