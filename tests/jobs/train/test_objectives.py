"""Golden: the losses of 20 steps, from a plain PyTorch loop in fp32 on a CPU."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aligner import artefacts
from aligner.records import Triple
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import Phase, TrainConfig
from aligner_jobs.train.batches import collate
from aligner_jobs.train.material import prepare
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import correction_loss_sum

GOLDEN = Path(__file__).parents[2] / "golden" / "loss_curve.json"
WORDS = ["red", "green", "blue", "high", "low", "old", "new", "far", "near", "calm"]
ROWS = [
    Triple(f"Which {a}?", f"The {very}{a} one, fool.", f"The {very}{a} one.")
    for a in WORDS
    for very in ("", "very ", "very, very ", "rather ", "7 x ", "so so ", "1984 ", "not ")
]
CPU = torch.device("cpu")


def config(dataset: str) -> TrainConfig:
    return TrainConfig(
        dataset=dataset,
        out="o",
        model=ScratchModel(
            kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300
        ),
        warmup=Phase(epochs=0),
        correction=Phase(epochs=4, learning_rate=3e-3, lr_warmup_ratio=0.1),
        global_batch_size=16,
        precision="fp32",
    )


def test_twenty_steps_have_the_losses_of_the_golden_file(
    tmp_path: Path, write_dataset: Callable[..., str], plain: Callable[..., Any]
) -> None:
    settings = config(write_dataset(tmp_path / "d", ROWS))
    material = prepare(settings, artefacts.read_manifest(settings.dataset, kind="dataset"))
    losses, _ = plain(settings, material)
    assert losses["correction"] == pytest.approx(json.loads(GOLDEN.read_text()), abs=1e-3)


def test_a_batch_costs_the_sum_of_its_rows(
    tmp_path: Path, write_dataset: Callable[..., str]
) -> None:
    """So padding is never looked at, and the loss of a row does not depend on its neighbours."""
    settings = config(write_dataset(tmp_path / "d", ROWS))
    material = prepare(settings, artefacts.read_manifest(settings.dataset, kind="dataset"))
    corpus, model = material.phases["correction"], tiny_model(settings)

    def loss(*rows: int) -> float:
        batch = collate(corpus, np.array(rows, dtype=np.int64))
        return float(correction_loss_sum(model, batch, device=CPU).detach())

    assert len({int(length) for length in corpus.lengths[:6]}) > 1
    assert loss(*range(6)) == pytest.approx(sum(loss(row) for row in range(6)), rel=1e-5)
    assert loss() == 0.0


def tiny_model(settings: TrainConfig) -> nn.Module:
    return build_model(settings, vocab_size=300, bos_token_id=1, eos_token_id=2)
