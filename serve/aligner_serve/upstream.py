"""The upstream's deployment: one model behind one API, asked and never corrected here."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from aligner.adapters.openai_http import OpenAIChat, failure_reason
from aligner.errors import GenerationError
from aligner.generation import Endpoint, Messages, Sampling
from aligner_serve.pipeline import TIMEOUT, Delta, Failed, Finish, Finished, Piece, Usage


class Upstream:
    """Asks one model. What goes wrong is reported as data: it is the API's failure, not ours."""

    def __init__(self, name: str, endpoint: dict[str, Any]) -> None:
        """``endpoint`` is a dumped :class:`Endpoint`; ``name`` is what the graph calls it.

        Raises:
            ConfigError: The variable that should hold the key is not set.
        """
        self._name = name
        self._chat = OpenAIChat(Endpoint.model_validate(endpoint))

    async def ask(
        self, messages: Messages, sampling: dict[str, Any], deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """One answer; ``sampling`` is a dumped :class:`Sampling`."""
        try:
            async with asyncio.timeout(deadline_s):
                completion = await self._chat.complete(messages, Sampling.model_validate(sampling))
        except TimeoutError:
            yield Failed(TIMEOUT)
            return
        except GenerationError as exc:
            # Only the reason goes on: the sentence names the address, which is not the client's.
            yield Failed(failure_reason(exc))
            return
        usage = Usage(completion.prompt_tokens, completion.completion_tokens)
        yield Delta(completion.text)
        finish: Finish = "length" if completion.finish_reason == "length" else "stop"
        yield Finished(usage, finish, self._name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._chat.aclose()
