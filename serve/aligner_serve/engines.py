"""vLLM behind ``ray.serve.llm``: token ids in, token ids out; correctors and upstreams share it.

``ray.serve.llm`` draws in vLLM, 20 s of imports on one core and 0.75 GB. It is imported where an
engine runs and nowhere else: hence a class of ours around ``LLMServer``, rather than
``build_llm_deployment``, which wants it in the program that deploys and in every caller.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aligner.generation import Sampling
from aligner_serve.config.aligner import EngineConfig
from aligner_serve.pipeline import TIMEOUT, UNAVAILABLE, Failed

MODEL: Final = "model"
"""What the engine calls its own weights; its adapters have names of their own."""

_PREFIX: Final = "data: "
_GATHERED_S: Final = 0.02
"""Each piece costs a message between processes, which a fast engine would write by the hundred."""

_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of adapters."""


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


@dataclass(frozen=True, slots=True)
class Decoded:
    """The next tokens of a text."""

    ids: list[int]
    text: str
    """As the engine reads ``ids``; stop sequences are left out."""
    finish: str | None = None
    """At the end, why it came: ``stop`` or ``length``."""


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
    ) -> None:
        """Not started yet; ``adapters`` are folders in PEFT's layout, by name."""
        self.adapters = adapters or {}
        """Names that a request may decode with in the stead of :data:`MODEL`."""
        arguments = engine_arguments(settings, context_tokens=context_tokens)
        if self.adapters:
            arguments |= adapter_arguments([rank_of(one) for one in self.adapters.values()])
        self._server = _server(folder, arguments, bundles(settings, num_cpus=num_cpus))
        self.queued_tokens = 0
        """Tokens of all requests that are still to be read or written."""

    async def start(self) -> None:
        """Load the weights."""
        await self._server.start()
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

    def decode(
        self, work: Decoding, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Decoded | Failed]:
        """The tokens as they come, or at once; closing it ends the work on them.

        The deadline is kept here, too: a caller that died tells nobody to stop.
        """
        return _gathered(self._decode(work, deadline_s=deadline_s, stream=stream))

    async def _decode(
        self, work: Decoding, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Decoded | Failed]:
        deadline = asyncio.get_running_loop().time() + deadline_s
        left = len(work.prompt) + work.expected_tokens
        self.queued_tokens += left
        done = len(work.prompt)
        try:
            items = await self._server.completions(_request(work, stream=stream))
            async with aclosing(items):
                while True:
                    try:
                        async with asyncio.timeout_at(deadline):
                            item = await anext(items)
                    except StopAsyncIteration:
                        return
                    except TimeoutError:
                        yield Failed(TIMEOUT)
                        return
                    for one in _decoded(item):
                        yield one
                        done += len(one.ids) if isinstance(one, Decoded) else 0
                        done = min(done, left)
                    self.queued_tokens, left, done = self.queued_tokens - done, left - done, 0
        finally:
            self.queued_tokens -= left


async def _gathered(decoded: AsyncGenerator[Decoded | Failed]) -> AsyncGenerator[Decoded | Failed]:
    """The first tokens at once, those that come right after others together with the next."""
    now = asyncio.get_running_loop().time
    given_at, held = 0.0, Decoded([], "")
    async with aclosing(decoded):
        async for one in decoded:
            if isinstance(one, Failed):
                yield one
                return
            held = Decoded(held.ids + one.ids, held.text + one.text, one.finish)
            if held.finish or now() - given_at >= _GATHERED_S:
                yield held
                given_at, held = now(), Decoded([], "")


def _decoded(item: Any) -> list[Decoded | Failed]:
    """What one item of the server tells; its error messages repeat the request, so they stay."""
    found: list[Decoded | Failed] = []
    for part in item if isinstance(item, list) else [item]:
        if not isinstance(part, str):
            if not (choices := getattr(part, "choices", None)):
                return [*found, Failed(UNAVAILABLE)]
            choice = choices[0]
            found.append(Decoded(list(choice.token_ids or []), choice.text, choice.finish_reason))
            continue
        for line in part.splitlines():
            if not line.startswith(_PREFIX) or line == f"{_PREFIX}[DONE]":
                continue
            body = json.loads(line.removeprefix(_PREFIX))
            if not body.get("choices"):
                return [*found, Failed(UNAVAILABLE)]
            choice = body["choices"][0]
            found.append(
                Decoded(
                    choice.get("token_ids") or [],
                    choice.get("text") or "",
                    choice.get("finish_reason"),
                )
            )
    return found


def _request(work: Decoding, *, stream: bool) -> Any:
    # Imports vLLM, which only the processes beside an engine need.
    from ray.serve.llm.openai_api_models import CompletionRequest

    sampling = work.sampling
    extensions = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
    return CompletionRequest(
        model=work.model,
        prompt=work.prompt,
        stream=stream,
        max_tokens=work.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        stop=list(sampling.stop),
        stop_token_ids=list(work.end_ids),
        return_token_ids=True,
        **{key: value for key, value in extensions.items() if value is not None},
    )


def _server(folder: Path, arguments: dict[str, Any], reserved: list[dict[str, float]]) -> Any:
    """Ray's server for the engine, not started yet."""
    if not any("GPU" in bundle for bundle in reserved):
        # On a CPU vLLM else puts the model in a process of its own behind the engine's, which
        # starts as slowly as the engine itself. It reads this while it is imported.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    class WeightsAreHere(CallbackBase):
        """Without it a task on this node imports vLLM once more, to download nothing."""

        async def on_before_node_init(self) -> None:
            self.ctx.run_init_node = False

    return LLMServer.sync_init(
        LLMConfig(
            model_loading_config={"model_id": MODEL, "model_source": str(folder)},
            engine_kwargs=arguments,
            # Reserved by the deployment already; here it tells Ray what kind of machine it is.
            placement_group_config={"bundles": reserved},
            # Tokens are passed on as they come; the default holds each for up to 50 ms.
            experimental_configs={"stream_batching_interval_ms": 0},
            log_engine_metrics=False,
            callback_config=CallbackConfig(callback_class=WeightsAreHere),
        )
    )


def engine_arguments(engine: EngineConfig, *, context_tokens: int) -> dict[str, Any]:
    """vLLM's own engine arguments."""
    arguments: dict[str, Any] = {
        "dtype": engine.dtype,
        "max_model_len": context_tokens,
        "max_num_seqs": engine.max_num_seqs,
        "enforce_eager": engine.enforce_eager,
        # Sampling comes from our config; a file beside the weights must not add to it.
        "generation_config": "vllm",
        "disable_log_stats": True,
    }
    if engine.num_gpus > 1:
        arguments["tensor_parallel_size"] = engine.num_gpus
    if engine.ngram_speculation_tokens:
        arguments["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": engine.ngram_speculation_tokens,
            "prompt_lookup_max": 4,
            "prompt_lookup_min": 2,
        }
    return arguments


def adapter_arguments(ranks: list[int]) -> dict[str, Any]:
    """The further ones of an engine with adapters of these ranks, all of them at once in memory."""
    return {
        "enable_lora": True,
        "max_loras": len(ranks),
        "max_lora_rank": min(rank for rank in _RANKS if rank >= max(ranks)),
    }


def rank_of(adapter: Path) -> int:
    """The rank of an adapter in PEFT's layout."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    return int(config["r"])


def bundles(engine: EngineConfig, *, num_cpus: float) -> list[dict[str, float]]:
    """What Ray reserves for one replica: its own CPUs, and a GPU per worker of its engine."""
    cpus: dict[str, float] = {"CPU": num_cpus}
    gpus = engine.num_gpus
    return [{**cpus, "GPU": 1}, *[{"GPU": 1.0}] * (gpus - 1)] if gpus else [cpus]
