from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import corpus_of
from torch import nn

from aligner.records import Triple
from aligner.tokens import Example
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate
from aligner_jobs.train.material import Material
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy, Preference

Prepared = Callable[[TrainConfig], Material]

ROWS = [
    Triple(f"Which {a}?", f"The {very}{a} one, fool.", f"The {very}{a} one.")
    for a in ("red", "green", "blue")
    for very in ("", "very, very ")
]
CPU = torch.device("cpu")


def config(dataset: str) -> TrainConfig:
    return TrainConfig(
        dataset=dataset,
        out="o",
        model=ScratchModel(
            kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300
        ),
        precision="fp32",
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_costs_the_sum_of_its_rows(
    tmp_path: Path, write_dataset: Callable[..., str], prepared: Prepared, packed: bool
) -> None:
    """So padding is never looked at, and the loss of a row does not depend on its neighbours."""
    settings = config(write_dataset(tmp_path / "d", ROWS))
    corpus, model = prepared(settings).phases["correction"], tiny_model(settings)

    def loss(*rows: int) -> float:
        batch = collate(corpus, np.array(rows, dtype=np.int64), packed=packed)
        return float(CrossEntropy().total(model, batch, device=CPU).detach())

    assert len({int(length) for length in corpus.lengths[:6]}) > 1
    assert loss(*range(6)) == pytest.approx(sum(loss(row) for row in range(6)), rel=1e-5)
    assert loss() == 0.0


@pytest.mark.parametrize("packed", [False, True])
def test_preferences_follow_the_equation(packed: bool) -> None:
    rows = [
        [Example([5, 6, 7], [8, 9, 2]), Example([5, 6, 7], [11, 2])],
        [Example([3], [4, 2]), Example([3], [9, 9, 9, 9, 2])],
    ]
    corpus, model = corpus_of(rows), tiny_model(config("d"))
    reference = np.array([-3.0, -1.0, -2.0, -9.0], dtype=np.float32)
    loss = Preference(0.3, reference)

    def logprob(document: Example) -> float:
        logits = model(torch.tensor([document.input_ids])).logits[0].log_softmax(-1)
        place = len(document.prompt_ids) - 1
        return sum(float(logits[place + n, one]) for n, one in enumerate(document.target_ids))

    every = np.arange(2)
    with torch.no_grad():
        gains = np.array([[logprob(one) for one in row] for row in rows]) - reference.reshape(2, 2)
        expected = np.log1p(np.exp(-0.3 * (gains[:, 0] - gains[:, 1]))).sum()
        found = loss.total(model, collate(corpus, every, packed=packed), device=CPU)
        nothing = loss.total(model, collate(corpus, every[:0], packed=packed), device=CPU)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert loss.weight(corpus, every) == 2
    assert float(nothing) == 0.0


def tiny_model(settings: TrainConfig) -> nn.Module:
    return build_model(settings, vocab_size=300, bos_token_id=1, eos_token_id=2)
