from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from aligner.adapters.hf_tokenizer import open_files
from aligner_jobs.config.measuring import Heldout
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.objective import SftObjective
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.beside import Alone
from aligner_jobs.train.evaluation import Evaluated, evaluate
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.material import Material
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy

SHARES = {"copy_rate", "edit_similarity", "teacher_similarity", "cut_off_rate"}
OF_PERFECT = {"identity_rate", "over_correction"}
Evaluate = Callable[..., Evaluated]


@pytest.fixture(scope="module")
def untrained(small_dataset: str, prepared: Callable[[TrainConfig], Material]) -> Evaluate:
    """Evaluates a model with its initial weights."""
    config = TrainConfig(
        dataset=small_dataset,
        out="out",
        model=ScratchModel(
            kind="scratch", hidden_size=32, layers=1, heads=2, intermediate_size=48, vocab_size=320
        ),
        precision="fp32",
        max_length_tokens=512,
        heldout=Heldout(rows=10, sample_rows=1, generate_rows=2),
    )
    material, device = prepared(config), torch.device("cpu")
    tokenizer = open_files(material.tokenizer)
    model = build_model(
        config,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )

    def found(
        *, rows: int, loss: bool = True, without: tuple[str, ...] = (), **changes: object
    ) -> Evaluated:
        empty: dict[str, Any] = dict.fromkeys(without, ())
        return evaluate(
            Alone(model, device),
            replace(material, **empty),
            rows=rows,
            loss=CrossEntropy() if loss else None,
            tokenizer=tokenizer,
            config=config.model_copy(update=changes),
            group=Group(rank=0, world_size=1, device=device),
        )

    return found


def test_an_evaluation_tells_loss_shares_and_how_long_it_took(untrained: Evaluate) -> None:
    found = untrained(rows=2)
    assert set(found.metrics) == {"heldout_loss", "evaluation_s"} | SHARES | OF_PERFECT
    assert len(found.samples) == 1


def test_what_is_not_asked_for_or_not_there_is_left_out(untrained: Evaluate) -> None:
    assert set(untrained(rows=0).metrics) == {"heldout_loss", "evaluation_s"}
    without = untrained(rows=2, loss=False, without=("identity_sample",))
    assert set(without.metrics) == SHARES | {"evaluation_s"}
    nothing = untrained(rows=2, loss=False, without=("copy_sample", "identity_sample"))
    assert nothing == Evaluated({}, [])


def test_upstreams_are_not_asked_to_correct(untrained: Evaluate) -> None:
    found = untrained(rows=2, objective=SftObjective(kind="sft"))
    assert set(found.metrics) == {"heldout_loss", "evaluation_s"}
    assert not found.samples
