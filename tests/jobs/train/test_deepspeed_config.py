"""Golden: a change of ``tests/golden/deepspeed.json`` is a change of how every model is trained."""

import json
from pathlib import Path

import pytest

from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig, Zero
from aligner_jobs.train.deepspeed_config import deepspeed_config

GOLDEN = Path(__file__).parents[2] / "golden" / "deepspeed.json"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_it_gives_what_the_golden_file_holds(stage: int) -> None:
    config = TrainConfig(
        dataset="d",
        out="o",
        model=ScratchModel(kind="scratch"),
        num_workers=8,
        precision="bf16" if stage == 3 else "fp32",
        zero=Zero(stage=stage),
    )
    assert deepspeed_config(config) == json.loads(GOLDEN.read_text())[f"zero-{stage}"]
