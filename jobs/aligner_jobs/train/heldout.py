"""What is measured on held-out rows: loss, copy rate, identity rate. All workers take part.

Every worker makes the same number of calls to the model, with made-up input where it has no
rows left: under ZeRO-3 a call that one worker misses would leave the others waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import distributed

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.prompt import PromptTemplate
from aligner.records import Triple
from aligner.tokens import encode_prompt
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate, passes_of
from aligner_jobs.train.corpus import Corpus
from aligner_jobs.train.objectives import Loss


@dataclass(frozen=True, slots=True)
class Group:
    """This worker among all."""

    rank: int
    world_size: int
    device: torch.device

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over all workers."""
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            distributed.all_reduce(values)
        return [float(value) for value in values.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Each worker's ``value``, by rank; it is pickled, so keep it small."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values


def heldout_loss(
    engine: Any, corpus: Corpus, *, loss: Loss, config: TrainConfig, group: Group
) -> float:
    """Mean loss over ``corpus``; NaN for no rows."""
    everything = np.arange(len(corpus))
    if not len(everything):
        return float("nan")
    engine.eval()
    total = 0.0
    with torch.no_grad():
        for parts in passes_of(corpus, everything, config=config, world_size=group.world_size):
            batch = collate(corpus, parts[group.rank], packed=config.packing)
            total += float(loss.total(engine, batch, device=group.device))
    engine.train()
    return group.total(total)[0] / loss.weight(corpus, everything)


def unchanged_rate(
    engine: Any,
    rows: Sequence[Triple],
    *,
    config: TrainConfig,
    template: PromptTemplate,
    tokenizer: HfTokenizer,
    group: Group,
) -> float:
    """Share of ``rows`` whose answer comes back byte for byte (greedy); NaN for no rows.

    Rows that leave no room for their answer in ``max_length_tokens`` are not counted.
    """
    encode = partial(encode_prompt, template=template, tokenizer=tokenizer)
    tasks = [
        _Task(row.answer, encode(row.question, row.answer, row.history), tokenizer) for row in rows
    ]
    tasks = [task for task in tasks if task.length <= config.max_length_tokens]
    tasks.sort(key=lambda task: task.length)
    engine.eval()
    unchanged = seen = 0
    at_once = config.heldout.generate_batch_size * group.world_size
    for begin in range(0, len(tasks), at_once):
        part = tasks[begin : begin + at_once][group.rank :: group.world_size]
        # A worker without rows takes part in the call with one that is not counted.
        texts = _generate(engine, part or tasks[:1], config=config, tokenizer=tokenizer)
        unchanged += sum(text == task.answer for text, task in zip(texts, part, strict=False))
        seen += len(part)
    engine.train()
    total_unchanged, total_seen = group.total(unchanged, seen)
    return total_unchanged / total_seen if total_seen else float("nan")


class _Task:
    """One row to be corrected."""

    def __init__(self, answer: str, prompt_ids: list[int], tokenizer: HfTokenizer) -> None:
        self.answer = answer
        self.prompt_ids = prompt_ids
        # The answer and EOS: whatever is longer is no copy.
        self.new_tokens = len(tokenizer.encode(answer)) + 1

    @property
    def length(self) -> int:
        """Tokens of prompt and unchanged answer."""
        return len(self.prompt_ids) + self.new_tokens


def _generate(
    engine: Any, tasks: Sequence[_Task], *, config: TrainConfig, tokenizer: HfTokenizer
) -> list[str]:
    """Greedy corrections of ``tasks``, padded at the left so that all go on at the same place."""
    width = max(len(task.prompt_ids) for task in tasks)
    ids_BT = torch.full((len(tasks), width), tokenizer.eos_token_id)
    mask_BT = torch.zeros_like(ids_BT)
    for at, task in enumerate(tasks):
        ids_BT[at, width - len(task.prompt_ids) :] = torch.tensor(task.prompt_ids)
        mask_BT[at, width - len(task.prompt_ids) :] = 1
    with torch.no_grad():
        output_BT = engine.module.generate(
            input_ids=ids_BT.to(engine.device),
            attention_mask=mask_BT.to(engine.device),
            max_new_tokens=max(task.new_tokens for task in tasks),
            do_sample=False,
            use_cache=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
            synced_gpus=config.zero.stage == 3,
        )
    return [tokenizer.decode(row) for row in output_BT[:, width:].tolist()]
