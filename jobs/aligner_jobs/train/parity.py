"""An export under vLLM and under Transformers: do the two that use it agree?

vLLM answers greedily and tells the log-probability of each token that it chose. Transformers then
reads prompt and reply at once. So a token that both find equally good is no disagreement, and one
that differs does not make all that follow it differ.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import ray

from aligner import exports
from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.errors import TrainingError
from aligner.manifest import Manifest
from aligner.tokens import encode_prompt
from aligner_jobs import runtime
from aligner_jobs.config.engine import EngineConfig
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.correct import engine_kwargs, run_engine
from aligner_jobs.train.shards import read_rows, sample

_TOLERANCE: Final = {"fp32": 0.01, "bf16": 0.25}
_DTYPES: Final[Mapping[str, Literal["float32", "bfloat16"]]] = {
    "fp32": "float32",
    "bf16": "bfloat16",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What vLLM made of one prompt."""

    prompt_ids: list[int]
    ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class Reading:
    """What Transformers finds in one reply, token by token."""

    logprobs: list[float]
    """Of the reply's tokens."""
    best: list[float]
    """Of the tokens that Transformers would have chosen."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the two agree."""

    tokens: int
    largest_difference: float
    """Of the log-probabilities of a token."""
    other_tokens: int
    """Tokens for which Transformers has a better one, beyond the tolerance."""


def parity_metrics(config: TrainConfig, export: Manifest) -> dict[str, float]:
    """Compare the export at ``config.export_uri``; nothing where the config does not ask for it.

    Raises:
        TrainingError: The two disagree, or nothing can be compared.
        GenerationError: vLLM does not run this model.
    """
    if not config.export.parity.rows:
        return {}
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(runtime.ray_session())
        found = _compare(config, export)
    require_agreement(found, config)
    return {
        "parity_tokens": float(found.tokens),
        "parity_largest_difference": found.largest_difference,
    }


def agreement(
    replies: Sequence[Reply], readings: Sequence[Reading], *, tolerance: float
) -> Agreement:
    """Hold ``readings`` against ``replies``, in the same order."""
    largest, other, tokens = 0.0, 0, 0
    for reply, reading in zip(replies, readings, strict=True):
        pairs = zip(reply.logprobs, reading.logprobs, reading.best, strict=True)
        for theirs, ours, best in pairs:
            tokens += 1
            largest = max(largest, abs(theirs - ours))
            other += best - ours > tolerance
    return Agreement(tokens, largest, other)


def require_agreement(found: Agreement, config: TrainConfig) -> None:
    """Raise :class:`TrainingError` where the two differ by more than the tolerance."""
    tolerance = _tolerance(config)
    if found.other_tokens or found.largest_difference > tolerance:
        raise TrainingError(
            f"{config.export_uri}: vLLM and Transformers disagree about this model: of "
            f"{found.tokens} tokens {found.other_tokens} differ, log-probabilities by up to "
            f"{found.largest_difference:.2g} (export.parity.tolerance={tolerance:g}); it was not "
            "registered. Try a model that vLLM supports, or raise the tolerance."
        )


def read_replies(
    folder: Path, replies: Sequence[tuple[Sequence[int], Sequence[int]]], *, dtype: str, gpu: bool
) -> list[Reading]:
    """What Transformers says of (prompt, reply) pairs of token ids."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    device = torch.device("cuda" if gpu else "cpu")
    model.to(device).eval()
    readings = []
    for prompt, reply in replies:
        ids = torch.tensor([[*prompt, *reply]], device=device)
        with torch.inference_mode():
            logits = model(ids, use_cache=False, logits_to_keep=len(reply) + 1).logits
        logprobs = logits[0, :-1].float().log_softmax(-1)
        own = logprobs.gather(1, torch.tensor(reply, device=device)[:, None])[:, 0]
        readings.append(Reading(own.tolist(), logprobs.max(-1).values.tolist()))
    return readings


def _tolerance(config: TrainConfig) -> float:
    return config.export.parity.tolerance or _TOLERANCE[config.precision]


def _compare(config: TrainConfig, export: Manifest) -> Agreement:
    with tempfile.TemporaryDirectory(prefix="aligner-parity-") as name:
        folder = exports.fetch(config.export_uri, export, into=Path(name))
        prompts = _prompts(config, export, folder)
        if not prompts:
            raise TrainingError(
                f"{config.dataset}/heldout: holds no row to compare vLLM and Transformers on; "
                "set export.parity.rows=0, or build the dataset with held-out rows."
            )
        replies = list(_replies(config, prompts, folder))
        # Where the workers ran: the driver's machine may have no GPU.
        read: Any = ray.remote(num_cpus=1, num_gpus=int(config.use_gpu))(cast(Any, read_replies))
        readings = ray.get(
            read.remote(
                folder,
                [(reply.prompt_ids, reply.ids) for reply in replies],
                dtype=_DTYPES[config.precision],
                gpu=config.use_gpu,
            )
        )
    return agreement(replies, readings, tolerance=_tolerance(config))


def _prompts(config: TrainConfig, export: Manifest, folder: Path) -> list[list[int]]:
    """Held-out prompts that leave room for a token, as ids."""
    template = export.require_fingerprint(where=config.export_uri)
    tokenizer = HfTokenizer.load(folder)
    rows = sample(read_rows(config.dataset, "heldout"), config.export.parity.rows)
    prompts = [
        encode_prompt(row.question, row.answer, row.history, template=template, tokenizer=tokenizer)
        for row in rows
    ]
    return [ids for ids in prompts if len(ids) < config.max_length_tokens]


def _replies(config: TrainConfig, prompts: Sequence[list[int]], folder: Path) -> Iterable[Reply]:
    import ray.data

    engine = EngineConfig(gpus=int(config.use_gpu), dtype=_DTYPES[config.precision])
    limit = config.export.parity.new_tokens
    rows = [
        {
            "index": index,
            "tokenized_prompt": ids,
            "sampling_params": {
                "temperature": 0.0,
                "max_tokens": min(limit, config.max_length_tokens - len(ids)),
                "logprobs": 0,
                "detokenize": False,
            },
        }
        for index, ids in enumerate(prompts)
    ]
    for row in run_engine(
        ray.data.from_items(rows, override_num_blocks=1),
        model=folder,
        engine=engine,
        kwargs=engine_kwargs(engine, context_tokens=config.max_length_tokens),
        postprocess=_chosen,
    ):
        if row["error"]:
            raise TrainingError(
                f"{config.export_uri}: vLLM failed on a held-out prompt ({row['error']}); "
                "see the newest worker log in Ray's session folder."
            )
        yield Reply(
            prompts[row["index"]],
            [int(token) for token in row["generated_tokens"]],
            [float(value) for value in row["logprobs"]],
        )


def _chosen(row: dict[str, Any]) -> dict[str, Any]:
    """Tokens and their log-probabilities alone."""
    ids = row["generated_tokens"]
    found = [
        of_token[token]["logprob"] for token, of_token in zip(ids, row["logprobs"], strict=True)
    ]
    return {"index": row["index"], "generated_tokens": ids, "logprobs": found}
