"""The corrector's deployment: vLLM behind ``ray.serve.llm``, asked with question and answer.

Prompt, tokenizer and weights come from one verified export, so they cannot disagree. The engine
gets token ids and gives token ids back: a special token's name in a user's text stays text, and
what is decoded is exactly what training encoded.

``ray.serve.llm`` draws in vLLM, 20 s of imports on one core and 0.75 GB. It is imported where
the engine runs and nowhere else: hence a class of ours around ``LLMServer``, rather than
``build_llm_deployment``, which wants it in the program that deploys and in every caller.
"""

import json
import os
from collections.abc import AsyncGenerator
from typing import Any

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.records import Turn
from aligner.tokens import encode_prompt
from aligner_serve import release
from aligner_serve.config import AlignerConfig
from aligner_serve.pipeline import (
    CUT_SHORT,
    TOO_LONG,
    UNAVAILABLE,
    Delta,
    Failed,
    Finished,
    Usage,
)

_MODEL_ID = "aligner"
_PREFIX = "data: "


class Corrector:
    """One replica with one engine."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, released: dict[str, Any], aligner: dict[str, Any], cache: str
    ) -> None:
        """``released`` is a dumped :class:`release.Release`, ``aligner`` an ``AlignerConfig``.

        Raises:
            DataError: The export is not on this machine, or a file differs from its manifest.
        """
        version = release.Release.model_validate(released)
        self._aligner = AlignerConfig.model_validate(aligner)
        # Where an export is fetched to is known only here, on the machine that runs the engine.
        weights = release.fetch(version, cache=cache)
        self._template = weights.manifest.require_fingerprint(where=version.version)
        self._tokenizer = HfTokenizer.load(weights.folder)
        self._context = release.require_context(weights, self._aligner.engine.max_model_len_tokens)
        self._server = _server(self._aligner, str(weights.folder), self._context)
        await self._server.start()

    async def check_health(self) -> None:
        """Called by Serve at intervals, and by the gateway's ``/readyz``."""
        await self._server.check_health()

    async def __del__(self) -> None:
        """Called by Serve at the end: the engine is a process of its own."""
        if (server := getattr(self, "_server", None)) is not None and server.engine is not None:
            await server.engine.shutdown()

    async def correct(
        self, question: str, answer: str, history: tuple[Turn, ...], stream: bool
    ) -> AsyncGenerator[Delta | Finished | Failed]:
        """Decode one correction; without ``stream`` its text comes as a single delta."""
        prompt = encode_prompt(
            question, answer, history, template=self._template, tokenizer=self._tokenizer
        )
        room = release.room_tokens(
            prompt=len(prompt),
            answer=len(self._tokenizer.encode(answer)),
            context=self._context,
            max_tokens=self._aligner.sampling.max_tokens,
            headroom_ratio=self._aligner.headroom_ratio,
        )
        if room is None:
            yield Failed(TOO_LONG)
            return
        ids: list[int] = []
        sent, finish = 0, None
        async for chunk in self._decode(prompt, room, stream):
            if isinstance(chunk, Failed):
                yield chunk
                return
            new_ids, finish = chunk
            ids += [i for i in new_ids if i != self._tokenizer.eos_token_id]
            text = self._tokenizer.decode(ids)
            # A character of several bytes may be half there.
            if len(text) > sent and (finish or not text.endswith("\N{REPLACEMENT CHARACTER}")):
                yield Delta(text[sent:])
                sent = len(text)
        if finish == "stop":
            yield Finished(Usage(len(prompt), len(ids)))
        else:
            yield Failed(CUT_SHORT if finish == "length" else UNAVAILABLE)

    async def _decode(
        self, prompt: list[int], room: int, stream: bool
    ) -> AsyncGenerator[tuple[list[int], str | None] | Failed]:
        """New ids and, at the end, why it ended; or why there are none."""
        async for item in await self._server.completions(self._request(prompt, room, stream)):
            for part in item if isinstance(item, list) else [item]:
                if not isinstance(part, str):
                    choices = getattr(part, "choices", None)
                    if not choices:
                        # An ErrorResponse; its message repeats the request, so it stays here.
                        yield Failed(UNAVAILABLE)
                        return
                    yield list(choices[0].token_ids or []), choices[0].finish_reason
                    continue
                for line in part.splitlines():
                    if not line.startswith(_PREFIX) or line == f"{_PREFIX}[DONE]":
                        continue
                    body = json.loads(line.removeprefix(_PREFIX))
                    if not body.get("choices"):
                        yield Failed(UNAVAILABLE)
                        return
                    choice = body["choices"][0]
                    yield choice.get("token_ids") or [], choice.get("finish_reason")

    def _request(self, prompt: list[int], room: int, stream: bool) -> Any:
        # Imports vLLM, which only this deployment's own processes need.
        from ray.serve.llm.openai_api_models import CompletionRequest

        sampling = self._aligner.sampling
        extensions = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
        return CompletionRequest(
            model=_MODEL_ID,
            prompt=prompt,
            stream=stream,
            max_tokens=room,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            frequency_penalty=sampling.frequency_penalty,
            seed=sampling.seed,
            stop_token_ids=[self._tokenizer.eos_token_id],
            return_token_ids=True,
            **{key: value for key, value in extensions.items() if value is not None},
        )


def _server(aligner: AlignerConfig, folder: str, context_tokens: int) -> Any:
    """Ray's server for the engine, not started yet."""
    if not aligner.engine.num_gpus:
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
            model_loading_config={"model_id": _MODEL_ID, "model_source": folder},
            engine_kwargs=engine_arguments(aligner, context_tokens=context_tokens),
            # Reserved by the deployment already; here it tells Ray what kind of machine it is.
            placement_group_config={"bundles": bundles(aligner)},
            # Tokens are passed on as they come; the default holds each for up to 50 ms.
            experimental_configs={"stream_batching_interval_ms": 0},
            log_engine_metrics=False,
            callback_config=CallbackConfig(callback_class=WeightsAreHere),
        )
    )


def engine_arguments(aligner: AlignerConfig, *, context_tokens: int) -> dict[str, Any]:
    """vLLM's own engine arguments."""
    engine = aligner.engine
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


def bundles(aligner: AlignerConfig) -> list[dict[str, float]]:
    """What Ray reserves for one replica: its own CPUs, and a GPU per worker of its engine."""
    cpus: dict[str, float] = {"CPU": aligner.scaling.num_cpus}
    gpus = aligner.engine.num_gpus
    return [{**cpus, "GPU": 1}, *[{"GPU": 1.0}] * (gpus - 1)] if gpus else [cpus]
