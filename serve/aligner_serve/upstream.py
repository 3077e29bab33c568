"""One model behind one API: in the gateway's process, or a deployment of its own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from aligner.adapters.openai_http import OpenAIChat
from aligner.failures import Failure
from aligner.generation import Completion, Endpoint, Messages, Sampling
from aligner.patience import Patience
from aligner_serve.config.upstream import ApiUpstream
from aligner_serve.pieces import Delta, Failed, Finish, Finished, Piece, Usage, gathered

_GATHERED_S: Final = 0.05
"""Each piece costs a message between processes: what comes sooner goes with the next."""


class Upstream:
    """Asks one model. What goes wrong is reported as data: it is the API's failure, not ours."""

    def __init__(self, name: str, endpoint: Endpoint, settings: ApiUpstream) -> None:
        """``name`` is what the graph calls it.

        Raises:
            ConfigError: The variable that should hold the key is not set.
        """
        self._name = name
        self._settings = settings
        self._chat = OpenAIChat(endpoint)

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """One answer; without ``stream`` one that breaks off in the middle is asked for again.

        Closing the generator closes the connection to the API.
        """
        asked = self._ask(messages, sampling, deadline_s=deadline_s, stream=stream)
        waiting, given_at = "", 0.0
        now = asyncio.get_running_loop().time
        async with aclosing(asked) as pieces:
            async for piece in pieces:
                match piece:
                    case str():
                        waiting += piece
                        if now() - given_at >= _GATHERED_S:
                            yield Delta(_clean(waiting))
                            waiting, given_at = "", now()
                    case Completion():
                        left = waiting if stream else piece.text
                        if left:
                            yield Delta(_clean(left))
                        yield self._finished(piece)
                    case Failure():
                        # Only the reason goes on: a sentence would name the address, which is
                        # not the client's.
                        yield Failed(piece.reason, piece.retry_after_s)

    async def ask_whole(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float
    ) -> list[Piece]:
        """All that :meth:`ask` gives without ``stream``."""
        return await gathered(self.ask(messages, sampling, deadline_s=deadline_s, stream=False))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._chat.aclose()

    async def _ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[str | Completion | Failure]:
        if not self._settings.stream:
            whole = await self._chat.whole(messages, sampling, deadline_s=deadline_s)
            if stream and isinstance(whole, Completion):
                yield whole.text
            yield whole
            return
        patience = Patience(
            deadline_s=deadline_s,
            first_token_s=self._settings.first_token_timeout_s,
            idle_s=self._settings.idle_timeout_s,
        )
        pieces = self._chat.stream(messages, sampling, patience=patience, held=not stream)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _finished(self, completion: Completion) -> Finished:
        usage = Usage(completion.prompt_tokens, completion.completion_tokens)
        finish: Finish = "length" if completion.finish_reason == "length" else "stop"
        return Finished(usage, finish, self._name)


def _clean(text: str) -> str:
    """JSON can hold halves of characters, which no reply of ours could carry."""
    return text.encode(errors="replace").decode()
