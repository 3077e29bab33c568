"""Corrections of held-out rows by the model in training, and what they tell. All workers take part.

Every worker makes the same number of calls to the model, with a row that is not counted where it
has none left: under ZeRO-3 a call that one worker misses would leave the others waiting.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.metrics import copy_stats, similarity
from aligner.prompt import PromptTemplate
from aligner.records import Triple
from aligner.tokens import encode_prompt
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.heldout import Group

_SPARE: Final = 1.25
"""A correction may be this much longer than the longer one of answer and teacher's correction."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """A row, and what the model made of its answer."""

    row: Triple
    text: str
    finished: bool
    """Whether it ended by itself; else it was cut off."""

    @property
    def is_copy(self) -> bool:
        """Whether the answer came back byte for byte."""
        return self.text == self.row.answer


@dataclass(frozen=True, slots=True)
class Sampled:
    """Both samples, corrected."""

    heldout: tuple[Corrected, ...]
    perfect: tuple[Corrected, ...]
    """Rows whose answer is right already."""

    @property
    def metrics(self) -> dict[str, float]:
        """Those that the samples have rows for."""
        found: dict[str, float] = {}
        if self.heldout:
            stats = copy_stats((one.row.answer, one.text) for one in self.heldout)
            found["copy_rate"] = stats.copy_rate
            found["edit_similarity"] = stats.similarity
            found["teacher_similarity"] = _mean(
                similarity(one.row.correction, one.text) for one in self.heldout
            )
            found["cut_off_rate"] = _mean(not one.finished for one in self.heldout)
        if self.perfect:
            found["identity_rate"] = _mean(one.is_copy for one in self.perfect)
            found["over_correction"] = 1.0 - found["identity_rate"]
        return found

    def table(self, rows: int) -> list[dict[str, str | float]]:
        """``rows`` of them for people to look at, a quarter of them perfect answers."""
        perfect = self.perfect[: max(rows // 4, rows - len(self.heldout))]
        chosen = [*self.heldout[: rows - len(perfect)], *perfect]
        return [_shown(one) for one in chosen]


def sample_corrections(
    engine: Any,
    heldout: Sequence[Triple],
    perfect: Sequence[Triple],
    *,
    config: TrainConfig,
    template: PromptTemplate,
    tokenizer: HfTokenizer,
    group: Group,
) -> Sampled:
    """Correct both samples greedily; every worker gets all of it, in the rows' order.

    Rows that leave no room for their answer in ``max_length_tokens`` are left out.
    """
    tasks = [
        _Task(at, row, template=template, tokenizer=tokenizer, limit=config.max_length_tokens)
        for at, row in enumerate([*heldout, *perfect])
    ]
    # Rows of like length go together: no time is spent on padding.
    tasks = sorted((task for task in tasks if task.has_room), key=lambda task: task.length)
    found = _corrected(engine, tasks, config=config, tokenizer=tokenizer, group=group)
    return Sampled(
        heldout=tuple(found[at] for at in sorted(found) if at < len(heldout)),
        perfect=tuple(found[at] for at in sorted(found) if at >= len(heldout)),
    )


class _Task:
    """One row to be corrected, with its place among all."""

    def __init__(
        self,
        place: int,
        row: Triple,
        *,
        template: PromptTemplate,
        tokenizer: HfTokenizer,
        limit: int,
    ) -> None:
        self.place, self.row, self.frame = place, row, template.frame
        self.prompt_ids = encode_prompt(
            row.question, row.answer, row.history, template=template, tokenizer=tokenizer
        )
        texts = (self.frame.escape(text) for text in (row.answer, row.correction))
        answer, correction = (len(tokenizer.encode(text)) for text in texts)
        room = limit - len(self.prompt_ids)
        # With EOS; whatever is longer than the answer is no copy.
        self.has_room = answer + 1 <= room
        self.new_tokens = min(room, int(_SPARE * max(answer, correction)) + 1)

    @property
    def length(self) -> int:
        """Tokens of prompt and correction, at most."""
        return len(self.prompt_ids) + self.new_tokens


def _corrected(
    engine: Any,
    tasks: Sequence[_Task],
    *,
    config: TrainConfig,
    tokenizer: HfTokenizer,
    group: Group,
) -> dict[int, Corrected]:
    """By the tasks' places."""
    mine: dict[int, Corrected] = {}
    at_once = config.heldout.generate_batch_size * group.world_size
    engine.eval()
    for begin in range(0, len(tasks), at_once):
        part = tasks[begin : begin + at_once][group.rank :: group.world_size]
        new_BT = _generate(
            engine, part or tasks[:1], config=config, tokenizer=tokenizer, group=group
        )
        for task, ids in zip(part, new_BT, strict=False):
            mine[task.place] = _read(task, ids, tokenizer)
    engine.train()
    return {place: one for part in group.gather(mine) for place, one in part.items()}


def _generate(
    engine: Any,
    tasks: Sequence[_Task],
    *,
    config: TrainConfig,
    tokenizer: HfTokenizer,
    group: Group,
) -> list[list[int]]:
    """New ids for ``tasks``, which are padded at the left so that all go on at the same place."""
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
            synced_gpus=config.zero.stage == 3 and group.world_size > 1,
        )
    new_BT: list[list[int]] = output_BT[:, width:].tolist()
    return new_BT


def _read(task: _Task, ids: list[int], tokenizer: HfTokenizer) -> Corrected:
    end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
    finished = end < len(ids) and end < task.new_tokens
    # Others of its batch may have had more room.
    text = tokenizer.decode(ids[: min(end, task.new_tokens)])
    return Corrected(task.row, task.frame.unescape(text), finished)


def _shown(one: Corrected) -> dict[str, str | float]:
    return {
        "question": one.row.question,
        "answer": one.row.answer,
        "correction": one.text if one.finished else f"{one.text} [cut off]",
        "teacher's correction": one.row.correction,
        "unchanged": "yes" if one.is_copy else "no",
        "perfect answer": "yes" if one.row.is_identity else "no",
        "similarity to the answer": round(similarity(one.row.answer, one.text), 3),
        "similarity to the teacher": round(similarity(one.row.correction, one.text), 3),
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
