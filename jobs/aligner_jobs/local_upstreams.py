"""Answers of local models: vLLM inside Ray Data fills the kept replies, one model after the other.

The pipeline that follows finds every answer there already. So a local model is resumed, counted
and found again exactly like one behind an API, and no two engines share a machine's memory.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from aligner.errors import DataError
from aligner.generation import Completion, Messages, Sampling, chat_messages
from aligner_jobs.asking import Desk, ask
from aligner_jobs.config.asking import LocalUpstream
from aligner_jobs.correct import engine_kwargs, run_engine
from aligner_jobs.line import line_to
from aligner_jobs.reply_store import encoded, encoded_failure, reply_key
from aligner_jobs.switchboard import Post
from aligner_jobs.tables import history_of

_REQUESTS: Final = pa.schema(
    [("key", pa.binary()), ("sample", pa.int64()), ("messages", pa.string())]
)
"""One row per completion to be made; ``messages`` is JSON."""

_ROWS_PER_POST: Final = 64


def upstream_key(name: str, upstream: LocalUpstream, messages: Messages, *, salt: str) -> bytes:
    """What the answers of ``upstream`` to ``messages`` are kept under."""
    n, sampling = upstream.samples_per_question, upstream.sampling
    return reply_key(f"upstreams.{name}", upstream.model, messages, sampling, n=n, salt=salt)


def require_usable(name: str, upstream: LocalUpstream) -> None:
    """See that a model lies in the folder, before anything starts.

    Raises:
        DataError: There is none, or it has no chat template.
    """
    folder, where = Path(upstream.model), f"upstreams.{name}.model"
    settings = _json_in(folder / "tokenizer_config.json")
    if _json_in(folder / "config.json") is None or settings is None:
        raise DataError(f"{folder}: no model in Hugging Face's layout is there; correct {where}.")
    if "chat_template" not in settings and not (folder / "chat_template.jinja").is_file():
        raise DataError(
            f"{folder}: the model has no chat template, so it cannot be asked questions; name a "
            f"chat model in {where}."
        )


class MissingAnswers:
    """Columns in: :data:`aligner_jobs.tables.WORK_SCHEMA`. Columns out: key, sample, messages.

    Rows: one per sample of every question whose answers are not kept yet.
    """

    def __init__(self, name: str, upstream: Mapping[str, Any], switchboard: Any, salt: str) -> None:
        self._name, self._salt = name, salt
        self._upstream = LocalUpstream.model_validate(upstream)
        self._line = line_to(switchboard)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Look up the questions in ``batch``."""
        asked = {}
        for row in batch.to_pylist():
            if row["reason"] is None and row["answer"] is None:
                messages = chat_messages(row["question"], history_of(row))
                asked[upstream_key(self._name, self._upstream, messages, salt=self._salt)] = (
                    messages
                )
        assert self._line is not None
        kept = await asyncio.gather(*(self._line.look_up(key) for key in asked))
        missing = [
            {"key": key, "sample": sample, "messages": json.dumps(messages)}
            for (key, messages), value in zip(asked.items(), kept, strict=True)
            if value is None
            for sample in range(self._upstream.samples_per_question)
        ]
        return pa.Table.from_pylist(missing, schema=_REQUESTS)


def fill(name: str, upstream: LocalUpstream, questions: Any, desk: Desk) -> None:
    """Let ``upstream`` answer those of ``questions``, a Ray dataset, that it has not answered yet.

    A question that it cannot answer is remembered with the reason for the rest of this job.

    Raises:
        GenerationError: The engine does not start with this model, or dies.
    """
    switchboard = desk.switchboard
    assert switchboard is not None
    settings = {
        "name": name,
        "upstream": upstream.model_dump(mode="json"),
        "switchboard": switchboard.actor,
        "salt": desk.salt,
    }
    missing = ask(questions, MissingAnswers, settings, workers=1).materialize()
    if missing.count() == 0:
        return
    post = _Gathered(f"upstreams.{name}", upstream.samples_per_question)
    seed = upstream.sampling.seed if upstream.sampling.seed is not None else int(desk.salt)
    for row in _generated(missing, upstream, seed=seed):
        post.add(row, max_tokens=upstream.sampling.max_tokens, context=_context(upstream))
        if len(post.keep) >= _ROWS_PER_POST:
            switchboard.exchange(post.taken())
    switchboard.exchange(post.taken())


@dataclass(slots=True)
class _Gathered:
    """Completions on their way to the switchboard, put together by question."""

    name: str
    samples: int
    keep: list[tuple[bytes, bytes]] = field(default_factory=list)
    failed: list[tuple[bytes, bytes]] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)
    _open: dict[bytes, dict[int, Completion | str]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], *, max_tokens: int, context: int) -> None:
        """Take in one row of the engine."""
        result = completion_of(row, max_tokens=max_tokens, context=context)
        self._count("sent", 1)
        self._count(f"reply_{result if isinstance(result, str) else 'ok'}", 1)
        if isinstance(result, Completion):
            self._count("prompt_tokens", result.prompt_tokens)
            self._count("completion_tokens", result.completion_tokens)
        samples = self._open.setdefault(row["key"], {})
        samples[int(row["sample"])] = result
        if len(samples) == self.samples:
            self._finish(row["key"], [samples[number] for number in range(self.samples)])

    def taken(self) -> Post:
        """What is complete, which is forgotten here."""
        post = Post(keep=self.keep, failed=self.failed, counts={self.name: self._counts})
        self.keep, self.failed, self._counts = [], [], {}
        return post

    def _finish(self, key: bytes, results: list[Completion | str]) -> None:
        del self._open[key]
        self._count("asked", 1)
        completions = [one for one in results if isinstance(one, Completion)]
        if len(completions) == len(results):
            self.keep.append((key, encoded(completions)))
        else:
            self._count("failed", 1)
            reason = next(one for one in results if isinstance(one, str))
            self.failed.append((key, encoded_failure(reason)))

    def _count(self, item: str, amount: int) -> None:
        self._counts[item] = self._counts.get(item, 0) + amount


def completion_of(row: Mapping[str, Any], *, max_tokens: int, context: int) -> Completion | str:
    """The completion in one row that the engine returned, or why there is none."""
    if error := row["error"]:
        return "too_long" if "maximum model length" in error else "engine_error"
    prompt, made = int(row["num_input_tokens"]), int(row["num_generated_tokens"])
    cut = made >= max_tokens or prompt + made >= context
    return Completion(row["generated_text"], "length" if cut else "stop", prompt, made)


def _generated(missing: Any, upstream: LocalUpstream, *, seed: int) -> Iterator[dict[str, Any]]:
    """Run the engine over ``missing``. Columns out: those of :func:`_kept_columns`, and error."""
    sampling = sampling_params(upstream.sampling)
    kwargs = engine_kwargs(upstream.engine, context_tokens=_context(upstream))

    def preprocessed(row: dict[str, Any]) -> dict[str, Any]:
        params = {**sampling, "seed": seed + row["sample"]}
        return {
            "key": row["key"],
            "sample": row["sample"],
            "messages": json.loads(row["messages"]),
            "sampling_params": params,
        }

    return run_engine(
        missing,
        model=Path(upstream.model),
        engine=upstream.engine,
        # The engine is given text, the chat template's, and returns text.
        kwargs={**kwargs, "skip_tokenizer_init": False},
        preprocess=preprocessed,
        postprocess=_kept_columns,
        chat=True,
    )


def _kept_columns(row: dict[str, Any]) -> dict[str, Any]:
    columns = ("key", "sample", "generated_text", "num_input_tokens", "num_generated_tokens")
    return {name: row[name] for name in columns}


def sampling_params(sampling: Sampling) -> dict[str, Any]:
    """``sampling`` in vLLM's words, without the seed, which each sample has of its own."""
    optional = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "frequency_penalty": sampling.frequency_penalty,
        "max_tokens": sampling.max_tokens,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _context(upstream: LocalUpstream) -> int:
    """Tokens of prompt and reply together."""
    made_for = (_json_in(Path(upstream.model) / "config.json") or {}).get("max_position_embeddings")
    limits = [one for one in (made_for, upstream.engine.max_model_len_tokens) if one]
    return int(min(limits, default=4096))


def _json_in(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
