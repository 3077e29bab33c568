"""Correcting in batch: vLLM inside Ray Data (``ray.data.llm``), fed with token ids.

The engine never sees text: prompts are rendered and tokenised by :mod:`aligner.tokens` as in
training and serving, so that the name of a special token inside a user's text stays text.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from aligner.adapters import vllm_copying
from aligner.answer_marks import Marks, marks_of_all
from aligner.errors import GenerationError
from aligner.keeping import CopyScores
from aligner.prompt import PromptTemplate
from aligner.records import Question
from aligner.tokens import Tokenizer, encode_prompt
from aligner_jobs.config.aligner import AlignerModel
from aligner_jobs.config.engine import EngineConfig

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""Of one row."""

Unusable = Literal["too_long", "cut_off", "empty", "engine_error"]
"""Why a correction cannot be used; the answer is returned in its place."""

_COLUMNS: Final = (
    "index",
    "generated_tokens",
    "kept",
    "trusted_tokens",
    "copy_logprobs",
    "copy_ranks",
)
"""Of what the engine returns; those behind the second where copies are read first."""

_REASON: Final = re.compile(r"^\s*(?:[\w.]+\.)?(\w*Error: .+|Value error, .+)$", re.MULTILINE)
"""How an exception ends its trace, and how pydantic names a value that it refuses."""

NEVER: Final = math.inf
"""A score that no copy has: copies are read, and as far as they are trusted used, but none kept."""

_CPU_ENV: Final = {
    # On a CPU vLLM else puts the model in a process of its own behind the engine's, which starts
    # as slowly as the engine itself and serves to pin threads; we ask for one thread anyway.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to correct, as the engine gets it."""

    prompt_ids: list[int]
    max_tokens: int
    """Of the correction, EOS included; below 1 the pair does not fit and is not sent."""
    copy_ids: list[int] = field(default_factory=list)
    """The answer as it would be written again, EOS included; empty where there is no room to read
    it."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What came back: a text, or the reason why there is none."""

    text: str
    unusable: Unusable | None = None
    tokens: int = 0
    """Of the correction, EOS included."""
    decoded_tokens: int = 0
    """Of these, the ones that were not copied without decoding."""
    kept: bool = False
    """Whether the answer was returned because its copy scored high enough."""
    scores: CopyScores | None = None
    """Of the answer's copy, where it was read."""


def job_of(
    question: Question,
    answer: str,
    *,
    template: PromptTemplate,
    tokenizer: Tokenizer,
    config: AlignerModel,
    context_tokens: int,
) -> Job:
    """Tokenise one pair and bound its correction by the answer's length and the context's end.

    A pair whose answer could not even be copied within ``context_tokens`` gets no room at all.
    """
    prompt_ids = encode_prompt(
        question.question, answer, question.history, template=template, tokenizer=tokenizer
    )
    copy_ids = [*tokenizer.encode(template.frame.escape(answer)), tokenizer.eos_token_id]
    left = context_tokens - len(prompt_ids)
    if left < len(copy_ids):
        return Job(prompt_ids, max_tokens=0)
    room = min(left, config.room_tokens(answer=len(copy_ids) - 1))
    # The engine writes a token behind whatever it reads.
    return Job(prompt_ids, max_tokens=room, copy_ids=copy_ids if len(copy_ids) < left else [])


def correct(
    jobs: Sequence[Job],
    *,
    model: Path,
    template: PromptTemplate,
    tokenizer: Tokenizer,
    engine: EngineConfig,
    context_tokens: int,
    keep_from: float | None = None,
) -> Iterable[tuple[int, Correction]]:
    """Yield the index and the correction of each job, in whatever order they are done.

    With ``keep_from`` each answer's copy is read first: from this score on it is the correction,
    below it decoding begins behind what it would have copied anyway.

    Raises:
        GenerationError: The engine does not start with this model, or dies.
    """
    sent = []
    for index, job in enumerate(jobs):
        if job.max_tokens < 1:
            yield index, Correction(text="", unusable="too_long")
        else:
            sent.append(job_row(index, job, tokenizer=tokenizer, keep_from=keep_from))
    if not sent:
        return
    import ray.data

    blocks = max(1, -(-len(sent) // engine.batch_size))
    yield from correct_rows(
        ray.data.from_items(sent, override_num_blocks=blocks),
        model=model,
        template=template,
        tokenizer=tokenizer,
        engine=engine,
        context_tokens=context_tokens,
        copies_first=keep_from is not None,
    )


def job_row(
    index: Any, job: Job, *, tokenizer: Tokenizer, keep_from: float | None
) -> dict[str, Any]:
    """``job``, which has room, as a row of Ray Data; ``index`` comes back with its correction."""
    reading = {} if keep_from is None else {"copy_ids": job.copy_ids, "keep_from": keep_from}
    return {
        **reading,
        "index": index,
        "tokenized_prompt": job.prompt_ids,
        "sampling_params": {
            "temperature": 0.0,
            "max_tokens": job.max_tokens,
            "stop_token_ids": [tokenizer.eos_token_id],
            "detokenize": False,
        },
    }


def correct_rows(
    rows: Any,
    *,
    model: Path,
    template: PromptTemplate,
    tokenizer: Tokenizer,
    engine: EngineConfig,
    context_tokens: int,
    copies_first: bool,
) -> Iterator[tuple[Any, Correction]]:
    """Yield index and correction of ``rows``, a Ray dataset of what :func:`job_row` gives.

    Raises:
        GenerationError: The engine does not start with this model, or dies.
    """
    made = run_engine(
        rows,
        model=model,
        engine=engine,
        kwargs=engine_kwargs(
            engine,
            context_tokens=context_tokens,
            marks=marks_of_all([(template, tokenizer)]),
        ),
        postprocess=_told,
        copies_first=copies_first,
    )
    for row in made:
        yield row["index"], read_output(row, template=template, tokenizer=tokenizer)


def read_output(
    row: Mapping[str, Any], *, template: PromptTemplate, tokenizer: Tokenizer
) -> Correction:
    """The correction in one row that the engine returned.

    It is complete only if it ends with EOS: everything else was cut off at its limit.
    """
    if row["error"]:
        return Correction(text="", unusable="engine_error")
    ids = [int(token) for token in row["generated_tokens"]]
    text, unusable = "", _unusable(ids, eos=tokenizer.eos_token_id)
    if unusable is None:
        text = template.frame.unescape(tokenizer.decode(ids[:-1]))
        text, unusable = (text, None) if text.strip() else ("", "empty")
    return Correction(
        text=text,
        unusable=unusable,
        tokens=len(ids),
        decoded_tokens=len(ids) - int(row.get("trusted_tokens", 0)),
        kept=bool(row.get("kept", False)),
        scores=_scores(row),
    )


def _unusable(ids: Sequence[int], *, eos: int) -> Unusable | None:
    return None if ids and ids[-1] == eos else "cut_off"


def _scores(row: Mapping[str, Any]) -> CopyScores | None:
    if not len(row.get("copy_ranks", ())):
        return None
    return CopyScores(tuple(row["copy_logprobs"]), tuple(row["copy_ranks"]))


def engine_kwargs(
    engine: EngineConfig, *, context_tokens: int, marks: Sequence[Marks] = ()
) -> dict[str, Any]:
    """Arguments of vLLM's engine; those that hold on a GPU alone are left out on the CPU.

    ``marks`` stand around the answers in its prompts, if it corrects.
    """
    arguments: dict[str, Any] = {
        "dtype": engine.dtype,
        "enforce_eager": engine.enforce_eager,
        "max_model_len": context_tokens,
        "max_num_seqs": engine.max_num_seqs,
        "disable_log_stats": True,
        # Ids in, ids out: nothing in the engine needs a tokenizer.
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
    }
    if engine.gpus:
        arguments["tensor_parallel_size"] = engine.gpus
        arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
    return arguments | vllm_copying.engine_arguments(
        marks, depth=engine.copy_speculation_tokens, gpus=engine.gpus
    )


def run_engine(
    rows: Any,
    *,
    model: Path,
    engine: EngineConfig,
    kwargs: Mapping[str, Any],
    postprocess: Change,
    preprocess: Change | None = None,
    chat: bool = False,
    copies_first: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run vLLM over ``rows``, a Ray dataset. Columns out: those of ``postprocess``, and error.

    With ``chat`` a row's messages go through the model's own chat template; with ``copies_first``
    rows are treated as :func:`aligner_jobs.copy_first.copy_first` says.

    Raises:
        GenerationError: The engine does not start with this model, or dies.
    """
    _quiet_imports()
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    bundle = {"CPU": 1, "GPU": 1} if engine.gpus else {"CPU": 1}
    config = vLLMEngineProcessorConfig(
        model_source=str(model.absolute()),
        engine_kwargs=dict(kwargs),
        placement_group_config={"bundles": [bundle] * max(1, engine.gpus)},
        runtime_env=None if engine.gpus else {"env_vars": _CPU_ENV},
        concurrency=(engine.replicas, engine.replicas),
        batch_size=engine.batch_size,
        # Enough batches under way to fill the engine even while others are handed back.
        max_concurrent_batches=max(2, 2 * engine.max_num_seqs // engine.batch_size),
        should_continue_on_error=True,
        log_engine_metrics=False,
        chat_template_stage=chat,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    processor = build_processor(config, preprocess=preprocess, postprocess=postprocess)
    if copies_first:
        # Draws in the engine's stage.
        from aligner_jobs.copy_first_stage import read_copies_first

        read_copies_first(processor)
    try:
        for row in processor(rows).iter_rows():
            yield {**row, "error": row.get("__inference_error__", "")}
    except (ray.exceptions.RayError, RuntimeError) as exc:
        raise GenerationError(
            f"{model}: vLLM could not run this model ({reason_in(str(exc))}); "
            "see the newest worker log in Ray's session folder."
        ) from exc


def reason_in(trace: str) -> str:
    """The line that says what was wrong, of a worker's whole stack trace as Ray hands it on."""
    named = [match[1] for match in _REASON.finditer(trace)]
    lines = trace.strip().splitlines() or ["no reason given"]
    return (named or lines)[-1].strip().rstrip(".")[:300]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _COLUMNS if name in row}


def _quiet_imports() -> None:
    """Leave the terminal to the job: what the engine tells is in its worker's log."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("ray._private.worker").setLevel(logging.WARNING)
    of_the_stage = logging.getLogger("ray.llm")
    of_the_stage.setLevel(logging.WARNING)
    if not of_the_stage.handlers:
        # Without one here every module below would print at INFO through a handler of its own.
        of_the_stage.addHandler(logging.NullHandler())
