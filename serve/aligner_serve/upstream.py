"""The upstream's deployment: one model behind one API, asked and never corrected here."""

from typing import Any

from aligner.adapters.openai_http import OpenAIChat, failure_reason
from aligner.errors import GenerationError
from aligner.generation import Endpoint, Messages, Sampling
from aligner_serve.pipeline import Answered, Failed, Usage


class Upstream:
    """Asks one model. What goes wrong is reported as data: it is the API's failure, not ours."""

    def __init__(self, endpoint: dict[str, Any]) -> None:
        """``endpoint`` is a dumped :class:`Endpoint`.

        Raises:
            ConfigError: The variable that should hold the key is not set.
        """
        self._chat = OpenAIChat(Endpoint.model_validate(endpoint))

    async def ask(self, messages: Messages, sampling: dict[str, Any]) -> Answered | Failed:
        """One answer; ``sampling`` is a dumped :class:`Sampling`."""
        try:
            completion = await self._chat.complete(messages, Sampling.model_validate(sampling))
        except GenerationError as exc:
            # Only the reason goes on: the sentence names the address, which is not the client's.
            return Failed(failure_reason(exc))
        usage = Usage(completion.prompt_tokens, completion.completion_tokens)
        return Answered(completion.text, usage)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._chat.aclose()
