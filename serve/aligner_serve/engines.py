"""vLLM behind ``ray.serve.llm``: token ids in, token ids out; correctors and upstreams share it.

``ray.serve.llm`` draws in vLLM, 20 s of imports on one core and 0.75 GB. It is imported where an
engine runs and nowhere else: hence a class of ours around ``LLMServer``, rather than
``build_llm_deployment``, which wants it in the program that deploys and in every caller.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aligner.adapters import vllm_scoring
from aligner.answer_marks import Marks
from aligner.generation import Sampling
from aligner_serve import engine_server, engine_settings
from aligner_serve.config.aligner import EngineConfig
from aligner_serve.first_tokens import FirstTokens
from aligner_serve.pieces import TIMEOUT, UNAVAILABLE, Failed
from aligner_serve.scaling_policy import FIRST_TOKEN_S, QUEUED_TOKENS

MODEL: Final = engine_server.MODEL
"""What the engine calls its own weights; its adapters have names of their own."""

_GATHERED_S: Final = 0.02
"""Each piece costs a message between processes, which a fast engine would write by the hundred."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """What one request asks of an engine."""

    prompt: list[int]
    max_tokens: int
    expected_tokens: int
    """About how many will come; only the load is counted by it."""
    sampling: Sampling
    """All but ``max_tokens`` holds."""
    end_ids: tuple[int, ...]
    """Each ends the text and is no part of it."""
    model: str = MODEL
    """Or the name of an adapter."""
    text: bool = True
    """Whether the tokens are wanted as text, too."""
    begun: tuple[int, ...] = ()
    """Tokens that are known to come first: they are read instead of decoded, and given back,
    without text, before those that are decoded. ``max_tokens`` counts them, too."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The next tokens of a text."""

    ids: list[int]
    text: str
    """As the engine reads ``ids``; stop sequences are left out."""
    finish: str | None = None
    """At the end, why it came: ``stop`` or ``length``."""
    steps: int = 1
    """Of the engine, in which ``ids`` were written."""
    cached_tokens: int = 0
    """Of the prompt, read before; told with the first tokens."""


@dataclass(frozen=True, slots=True)
class Read:
    """What the engine thinks of a prompt that it has only read."""

    cached_tokens: int
    """Read before."""
    logprobs: tuple[float, ...] = ()
    """Natural logarithms of the probabilities of the tokens that were to be scored."""
    ranks: tuple[int, ...] = ()
    """1 where no other token is likelier."""


class Engine:
    """One engine; it lives in processes of its own beside the replica's."""

    def __init__(
        self,
        folder: Path,
        settings: EngineConfig,
        *,
        context_tokens: int,
        num_cpus: float,
        adapters: Mapping[str, Path] | None = None,
        marks: Sequence[Marks] = (),
        scores: bool = False,
    ) -> None:
        """Not started yet; ``adapters`` are folders in PEFT's layout, by name.

        ``marks`` are those around the answers in the prompts that it will be given; ``scores``
        tells whether it will be asked for scores.
        """
        self.adapters = adapters or {}
        """Names that a request may decode with in the stead of :data:`MODEL`."""
        arguments = engine_settings.engine_arguments(
            settings, context_tokens=context_tokens, marks=marks
        )
        if self.adapters:
            arguments |= engine_settings.adapter_arguments(self.adapters.values())
        if scores:
            arguments |= vllm_scoring.engine_arguments()
        self._scores = scores
        self._server = engine_server.of(
            folder, arguments, engine_settings.bundles(settings, num_cpus=num_cpus)
        )
        self.queued_tokens = 0
        """Tokens of all requests that are still to be read or written."""
        self._first_tokens = FirstTokens()

    def load(self) -> dict[str, float]:
        """What the scaling policy goes by."""
        return {QUEUED_TOKENS: self.queued_tokens, FIRST_TOKEN_S: self._first_tokens.seconds()}

    async def start(self) -> None:
        """Load the weights."""
        await self._server.start()
        if self._scores:
            engine = self._server.engine._engine_client
            await engine.collective_rpc(vllm_scoring.Scoring.score_in_pieces.__name__)
        # Only now: it draws in vLLM.
        from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig

        for number, (name, folder) in enumerate(self.adapters.items(), start=1):
            await self._server.engine.resolve_lora(
                DiskMultiplexConfig(
                    model_id=name,
                    local_path=str(folder),
                    max_total_tokens=None,
                    lora_assigned_int_id=number,
                )
            )

    async def check_health(self) -> None:
        """Raise whatever it is that the engine has died of."""
        await self._server.check_health()

    async def shutdown(self) -> None:
        """End what is left of it."""
        if self._server.engine is not None:
            await self._server.engine.shutdown()

    @property
    def block_tokens(self) -> int:
        """What is read is found again in blocks of so many tokens."""
        config = self._server.engine._engine_client.vllm_config
        return int(config.cache_config.block_size)

    def decode(
        self, work: Decoding, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Decoded | Failed]:
        """The tokens as they come, or without ``stream`` at once; closing it ends the work on them.

        The deadline is kept here, too: a caller that died tells nobody to stop.
        """
        return _gathered(self._decode(work, deadline_s=deadline_s), stream=stream)

    async def read(
        self,
        prompt: list[int],
        *,
        deadline_s: float,
        model: str = MODEL,
        scored_from: int | None = None,
    ) -> Read | Failed:
        """Read ``prompt`` into the cache; the tokens from ``scored_from`` on are scored.

        vLLM scores no token that it finds in its cache. Where it finds such ones the prompt is read
        once more without the cache: one prefill, as for a new prompt.

        Cancelling ends the work on it.
        """
        self.queued_tokens += len(prompt)
        # Who only reads ahead waits for nothing.
        call = None if scored_from is None else self._first_tokens.called()
        try:
            async with asyncio.timeout(deadline_s):
                item = await self._read(prompt, model, scored_from, cached=True)
                if scored_from is not None and item.num_cached_tokens >= scored_from:
                    item = await self._read(prompt, model, scored_from, cached=False)
        except TimeoutError:
            return Failed(TIMEOUT)
        except _errors():
            return Failed(UNAVAILABLE)
        finally:
            self.queued_tokens -= len(prompt)
            if call is not None:
                self._first_tokens.came(call)
        if scored_from is None:
            return Read(item.num_cached_tokens)
        scores = item.prompt_logprobs
        return Read(
            item.num_cached_tokens,
            # One for each token but the first, which nothing stands before.
            tuple(scores.logprobs[scored_from - 1 :]),
            tuple(scores.ranks[scored_from - 1 :]),
        )

    async def _decode(
        self, work: Decoding, *, deadline_s: float
    ) -> AsyncGenerator[Decoded | Failed]:
        deadline = asyncio.get_running_loop().time() + deadline_s
        left = len(work.prompt) + max(work.expected_tokens, len(work.begun))
        self.queued_tokens += left
        prompt = [*work.prompt, *work.begun]
        done = len(prompt)
        call = self._first_tokens.called()
        try:
            if work.begun:
                yield Decoded(list(work.begun), "", steps=0)
            async with aclosing(self._generate(prompt, _params(work), work.model)) as items:
                while True:
                    try:
                        async with asyncio.timeout_at(deadline):
                            item = await anext(items)
                    except StopAsyncIteration:
                        return
                    except TimeoutError:
                        yield Failed(TIMEOUT)
                        return
                    except _errors():
                        # Their messages repeat the request.
                        yield Failed(UNAVAILABLE)
                        return
                    self._first_tokens.came(call)
                    one = _decoded(item, first=done > 0)
                    yield one
                    done = min(done + len(one.ids), left)
                    self.queued_tokens, left, done = self.queued_tokens - done, left - done, 0
        finally:
            self.queued_tokens -= left
            self._first_tokens.over(call)

    async def _read(
        self, prompt: list[int], model: str, scored_from: int | None, *, cached: bool
    ) -> Any:
        from vllm import SamplingParams

        wanted = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            skip_reading_prefix_cache=not cached,
            **({} if scored_from is None else vllm_scoring.request_arguments(scored_from)),
        )
        async with aclosing(self._generate(prompt, wanted, model)) as items:
            return await anext(items)

    def _generate(self, prompt: list[int], wanted: Any, model: str) -> AsyncGenerator[Any]:
        engine = self._server.engine
        generated: AsyncGenerator[Any] = engine._engine_client.generate(
            {"prompt_token_ids": prompt},
            wanted,
            uuid.uuid4().hex,
            lora_request=engine._oai_models.lora_requests.get(model),
        )
        return generated


async def _gathered(
    decoded: AsyncGenerator[Decoded | Failed], *, stream: bool
) -> AsyncGenerator[Decoded | Failed]:
    """The first tokens at once, those that come right after others together with the next."""
    now = asyncio.get_running_loop().time
    given_at, held = 0.0, _NOTHING
    async with aclosing(decoded):
        async for one in decoded:
            if isinstance(one, Failed):
                yield one
                return
            held = Decoded(
                held.ids + one.ids,
                held.text + one.text,
                one.finish,
                held.steps + one.steps,
                held.cached_tokens + one.cached_tokens,
            )
            if held.finish or (stream and now() - given_at >= _GATHERED_S):
                yield held
                given_at, held = now(), _NOTHING


_NOTHING: Final = Decoded([], "", steps=0)


def _decoded(item: Any, *, first: bool) -> Decoded:
    made = item.outputs[0]
    cached = item.num_cached_tokens or 0
    return Decoded(
        list(made.token_ids),
        made.text,
        made.finish_reason,
        cached_tokens=cached if first else 0,
    )


def _params(work: Decoding) -> Any:
    # Imports vLLM, which only the processes beside an engine need.
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = work.sampling
    optional = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
    return SamplingParams(
        max_tokens=work.max_tokens - len(work.begun),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        stop=list(sampling.stop),
        stop_token_ids=list(work.end_ids),
        detokenize=work.text or bool(sampling.stop),
        output_kind=RequestOutputKind.DELTA,
        **{key: value for key, value in optional.items() if value is not None},
    )


def _errors() -> tuple[type[Exception], ...]:
    """What vLLM raises for an engine that is gone, and for a request that it refuses."""
    from vllm.exceptions import VLLMError

    return VLLMError, ValueError
