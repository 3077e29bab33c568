"""What the driver and the workers decide without a cluster."""

import json
import math
from pathlib import Path

import pytest
import torch
from ray.train import Checkpoint

from aligner.errors import ConfigError, TrainingError
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.checkpoint import restore
from aligner_jobs.train.group import require_resources
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.worker import require_number

CONFIG = TrainConfig(
    dataset="d", out="o", model=ScratchModel(kind="scratch"), num_workers=2, global_batch_size=64
)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training_with_a_remedy(loss: float) -> None:
    require_number(3.0, "warmup", 1, config=CONFIG)
    with pytest.raises(TrainingError, match=r"step 7: the loss is (nan|inf); lower correction\."):
        require_number(loss, "correction", 7, config=CONFIG)


def test_workers_that_a_machine_cannot_hold_are_refused() -> None:
    require_resources(CONFIG, {"CPU": 2.0})
    with pytest.raises(ConfigError, match="num_workers=2: they want 2 CPU, this machine offers 1"):
        require_resources(CONFIG, {"CPU": 1.0})
    on_gpus = CONFIG.model_copy(update={"use_gpu": True})
    with pytest.raises(ConfigError, match="want 2 GPU, this machine offers 0"):
        require_resources(on_gpus, {"CPU": 2.0})


def test_a_checkpoint_of_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    about = {"position": {"phase": "warmup"}, "world_size": 2, "metrics": {}}
    (tmp_path / "position.json").write_text(json.dumps(about))
    group = Group(rank=0, world_size=3, device=torch.device("cpu"))
    with pytest.raises(TrainingError, match="resumed by 3; set num_workers=2"):
        restore(None, Checkpoint.from_directory(tmp_path), group=group)
