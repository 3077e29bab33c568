from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aligner.adapters.hf_tokenizer import open_files
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner.tokens import encode_prompt
from aligner_jobs.config.measuring import Heldout
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.samples import Sampled, sample_corrections
from aligner_jobs.train.tokenizer import train_tokenizer

ROWS = [Triple(f"What is {i}?", "It is " + "so " * i + "true.", "No.") for i in range(5)]
PERFECT = [Triple(f"And {i}?", f"It is {i}.", f"It is {i}.") for i in range(4)]
TOKENIZER = open_files(train_tokenizer([*ROWS, *PERFECT], template=PLAIN, vocab_size=300))
CONFIG = TrainConfig(
    dataset="d",
    out="o",
    model=ScratchModel(kind="scratch"),
    max_length_tokens=512,
    heldout=Heldout(generate_batch_size=2),
)


class Model:
    """Says to each prompt what it was told to; "No." to those it does not know."""

    def __init__(self, replies: Mapping[tuple[int, ...], str]) -> None:
        self._replies = replies
        self.calls = 0

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **settings: Any
    ) -> torch.Tensor:
        self.calls += 1
        limit, rows = settings["max_new_tokens"], []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            assert mask.tolist() == sorted(mask.tolist()), "padding must stand at the left"
            reply = self._replies.get(tuple(ids[mask.bool()].tolist()), "No.")
            new = [*TOKENIZER.encode(reply), TOKENIZER.eos_token_id]
            rows.append([*ids.tolist(), *new[:limit], *([0] * (limit - len(new)))])
        return torch.tensor(rows)


def sampled(
    replies: Mapping[Triple, str], *, config: TrainConfig = CONFIG, rows: Sequence[Triple] = ROWS
) -> Sampled:
    """What is found where the model says ``replies``."""
    model = Model({prompt_of(row): reply for row, reply in replies.items()})
    engine = SimpleNamespace(module=model, device="cpu", eval=lambda: None, train=lambda: None)
    return sample_corrections(
        engine,
        rows,
        PERFECT,
        config=config,
        template=PLAIN,
        tokenizer=TOKENIZER,
        group=Group(rank=0, world_size=1, device=torch.device("cpu")),
    )


def prompt_of(row: Triple) -> tuple[int, ...]:
    return tuple(encode_prompt(row.question, row.answer, template=PLAIN, tokenizer=TOKENIZER))


@pytest.mark.parametrize("copied", range(len(ROWS) + 1))
def test_answers_that_come_back_byte_for_byte_are_counted(copied: int) -> None:
    metrics = sampled({row: row.answer for row in ROWS[:copied]}).metrics
    assert metrics["copy_rate"] == copied / len(ROWS)
    assert metrics["teacher_similarity"] < 1 or not copied
    assert metrics["identity_rate"] == 0.0


def test_rows_come_back_in_their_order_with_their_corrections() -> None:
    found = sampled({ROWS[3]: "Three.", PERFECT[1]: PERFECT[1].answer})
    assert [one.row for one in found.heldout] == ROWS
    assert [one.text for one in found.heldout] == ["No.", "No.", "No.", "Three.", "No."]
    assert [one.is_copy for one in found.perfect] == [False, True, False, False]
    assert found.metrics["identity_rate"] == 0.25
    assert found.metrics["over_correction"] == 0.75
    assert found.metrics["cut_off_rate"] == 0.0


def test_what_does_not_end_in_time_is_cut_off_and_told() -> None:
    found = sampled({ROWS[4]: "again " * 200})
    assert [one.finished for one in found.heldout] == [True, True, True, True, False]
    assert found.metrics["cut_off_rate"] == 0.2
    assert str(found.table(5)[3]["correction"]) == "No."
    assert str(_last(found.table(7))["correction"]).endswith("[cut off]")


def _last(table: list[dict[str, str | float]]) -> dict[str, str | float]:
    return next(row for row in table if row["question"] == ROWS[4].question)


def test_rows_without_room_for_their_answer_are_left_out() -> None:
    found = sampled({}, config=CONFIG.model_copy(update={"max_length_tokens": 9}))
    assert (found.heldout, found.metrics, found.table(20)) == ((), {}, [])


def test_the_table_shows_both_kinds_of_rows() -> None:
    found = sampled({})
    assert [row["perfect answer"] for row in found.table(4)] == ["no", "no", "no", "yes"]
    assert len(found.table(20)) == len(ROWS) + len(PERFECT)
    only_perfect = sampled({}, rows=())
    assert [row["perfect answer"] for row in only_perfect.table(3)] == ["yes", "yes", "yes"]
    assert "copy_rate" not in only_perfect.metrics
