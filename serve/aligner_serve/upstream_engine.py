"""The deployment of an upstream that the graph runs itself: a chat model in an engine."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from aligner import exports
from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.generation import Messages, Sampling
from aligner_serve import chat_prompt
from aligner_serve.adapters import model_folder
from aligner_serve.config.upstream import EngineUpstream
from aligner_serve.engine_replica import EngineReplica
from aligner_serve.engines import Decoding, Engine
from aligner_serve.pieces import (
    TOO_LONG,
    UNAVAILABLE,
    Delta,
    Failed,
    Finished,
    Piece,
    Usage,
    gathered,
)

UNSUITABLE: Final = "unsuitable"
"""The model is not made for such a conversation: another one would have been answered."""


class UpstreamEngine(EngineReplica):
    """One replica with one engine."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, name: str, upstream: dict[str, Any], cache: str
    ) -> None:
        """``upstream`` is a dumped :class:`EngineUpstream`; ``name`` is what the graph calls it.

        Raises:
            ConfigError: No model that can be asked questions lies there.
            DataError: An export's file differs from its manifest.
        """
        self._name = name
        settings = EngineUpstream.model_validate(upstream)
        folder = model_folder(settings.model, cache=cache)
        self._prompt = chat_prompt.load(folder, where=f"upstreams.{name}.model")
        self._end_ids = chat_prompt.end_ids(folder, HfTokenizer.load(folder))
        made_for = exports.context_tokens(folder)
        self._context = min(made_for, settings.engine.max_model_len_tokens or made_for)
        self._engine = Engine(
            folder,
            settings.engine,
            context_tokens=self._context,
            num_cpus=settings.scaling.num_cpus,
        )
        await self._engine.start()

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """One answer; closing the generator ends the work on it."""
        try:
            prompt = self._prompt.encode(messages)
        except chat_prompt.Unsuitable:
            yield Failed(UNSUITABLE)
            return
        room = min(sampling.max_tokens, self._context - len(prompt))
        if room < 1:
            yield Failed(TOO_LONG)
            return
        work = Decoding(
            prompt,
            max_tokens=room,
            # Nobody knows how long an answer becomes.
            expected_tokens=room,
            sampling=sampling,
            end_ids=self._end_ids,
        )
        decoded = self._engine.decode(work, deadline_s=deadline_s, stream=stream)
        async with aclosing(self._answer(decoded, prompt_tokens=len(prompt))) as pieces:
            async for piece in pieces:
                yield piece

    async def ask_whole(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float
    ) -> list[Piece]:
        """All that :meth:`ask` gives without ``stream``."""
        return await gathered(self.ask(messages, sampling, deadline_s=deadline_s, stream=False))

    async def _answer(
        self, decoded: AsyncGenerator[Any], *, prompt_tokens: int
    ) -> AsyncGenerator[Piece]:
        tokens, finish = 0, None
        async with aclosing(decoded):
            async for chunk in decoded:
                if isinstance(chunk, Failed):
                    yield chunk
                    return
                finish = chunk.finish
                tokens += len([i for i in chunk.ids if i not in self._end_ids])
                if chunk.text:
                    yield Delta(chunk.text)
        match finish:
            case "stop" | "length":
                yield Finished(Usage(prompt_tokens, tokens), finish, self._name)
            case _:
                yield Failed(UNAVAILABLE)
