import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aligner.adapters.hf_tokenizer import open_files
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner.tokens import encode_prompt
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import Heldout, TrainConfig
from aligner_jobs.train.heldout import Group, unchanged_rate
from aligner_jobs.train.tokenizer import train_tokenizer

ROWS = [Triple(f"What is {i}?", "It is " + "so " * i + "true.", "No.") for i in range(5)]
TOKENIZER = open_files(train_tokenizer(ROWS, template=PLAIN, vocab_size=300))
CONFIG = TrainConfig(
    dataset="d",
    out="o",
    model=ScratchModel(kind="scratch"),
    max_length_tokens=512,
    heldout=Heldout(generate_batch_size=2),
)


class Copier:
    """A model that returns the answers of some rows, and says "No." to the others."""

    def __init__(self, copied: list[Triple]) -> None:
        self._copied = copied

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **settings: Any
    ) -> torch.Tensor:
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            assert mask.tolist() == sorted(mask.tolist()), "padding must stand at the left"
            prompt = ids[mask.bool()].tolist()
            reply = next((row.answer for row in self._copied if prompt == ids_of(row)), "No.")
            new = [*TOKENIZER.encode(reply), TOKENIZER.eos_token_id]
            assert len(new) <= settings["max_new_tokens"]
            filler = [TOKENIZER.eos_token_id] * (settings["max_new_tokens"] - len(new))
            rows.append([*ids.tolist(), *new, *filler])
        return torch.tensor(rows)


def ids_of(row: Triple) -> list[int]:
    return encode_prompt(row.question, row.answer, template=PLAIN, tokenizer=TOKENIZER)


def rate(copied: list[Triple], *, config: TrainConfig = CONFIG, rank: int = 0) -> float:
    engine = SimpleNamespace(
        module=Copier(copied), device="cpu", eval=lambda: None, train=lambda: None
    )
    return unchanged_rate(
        engine,
        ROWS,
        config=config,
        template=PLAIN,
        tokenizer=TOKENIZER,
        group=Group(rank=rank, world_size=1, device=torch.device("cpu")),
    )


@pytest.mark.parametrize("copied", range(len(ROWS) + 1))
def test_answers_that_come_back_byte_for_byte_are_counted(copied: int) -> None:
    assert rate(ROWS[:copied]) == copied / len(ROWS)


def test_rows_without_room_for_their_answer_are_not_counted() -> None:
    assert math.isnan(rate(ROWS, config=CONFIG.model_copy(update={"max_length_tokens": 9})))
