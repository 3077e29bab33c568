"""DPO needs what the first model made of each pair, also after weights have changed."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import corpus_of
from torch import nn

from aligner.errors import TrainingError
from aligner.tokens import Example
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.objective import CorrectionObjective, DpoObjective, Objective, SftObjective
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate
from aligner_jobs.train.corpus import Corpus
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy, Loss
from aligner_jobs.train.reference import loss_over

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))
PAIRS = [
    [Example([n, 5, 6], [20 + n, 9, 2]), Example([n, 5, 6], [60 + n, 2])] for n in range(10, 20)
]


def config(out: Path, objective: Objective) -> TrainConfig:
    model = ScratchModel(
        kind="scratch", hidden_size=32, layers=1, heads=1, intermediate_size=48, vocab_size=300
    )
    return TrainConfig(
        dataset="d",
        out=str(out),
        model=model,
        objective=objective,
        global_batch_size=4,
        max_length_tokens=16,
        precision="fp32",
    )


def model_of(settings: TrainConfig) -> nn.Module:
    return build_model(settings, vocab_size=300, bos_token_id=1, eos_token_id=2)


def mean(loss: Loss, model: nn.Module, corpus: Corpus) -> torch.Tensor:
    every = np.arange(len(corpus))
    batch = collate(corpus, every, packed=True)
    return loss.total(model, batch, device=ALONE.device) / loss.weight(corpus, every)


def test_the_loss_begins_at_log_2_and_goes_on_from_the_kept_reference(tmp_path: Path) -> None:
    settings, corpus = config(tmp_path, DpoObjective(kind="dpo")), corpus_of(PAIRS)
    model = model_of(settings)

    def loss_after(*, begun: bool) -> Loss:
        return loss_over(model, corpus, "pairs", begun=begun, config=settings, group=ALONE)

    loss = loss_after(begun=False)
    assert mean(loss, model, corpus).item() == pytest.approx(math.log(2), abs=1e-5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        mean(loss, model, corpus).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    learned = mean(loss, model, corpus).item()
    assert learned < 0.5
    assert mean(loss_after(begun=True), model, corpus).item() == pytest.approx(learned, abs=1e-6)


def test_a_reference_that_is_gone_or_of_other_pairs_is_not_made_up(tmp_path: Path) -> None:
    settings, corpus = config(tmp_path, DpoObjective(kind="dpo")), corpus_of(PAIRS)
    model = model_of(settings)
    with pytest.raises(TrainingError, match=r"reference/pairs\.npz: the log-probabilities .* gone"):
        loss_over(model, corpus, "pairs", begun=True, config=settings, group=ALONE)
    loss_over(model, corpus, "pairs", begun=False, config=settings, group=ALONE)
    others = corpus_of(PAIRS[:3])
    with pytest.raises(TrainingError, match="choose another out to begin anew"):
        loss_over(model, others, "pairs", begun=True, config=settings, group=ALONE)


@pytest.mark.parametrize("objective", [CorrectionObjective(), SftObjective(kind="sft")])
def test_other_objectives_compare_with_nothing(tmp_path: Path, objective: Objective) -> None:
    settings = config(tmp_path, objective)
    loss = loss_over(nn.Linear(1, 1), corpus_of([]), "x", begun=True, config=settings, group=ALONE)
    assert isinstance(loss, CrossEntropy)
    assert not list(tmp_path.iterdir())
