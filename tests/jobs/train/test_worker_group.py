"""What the driver and the workers decide without a cluster."""

import pytest

from aligner.errors import ConfigError
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.group import require_resources

CONFIG = TrainConfig(
    dataset="d", out="o", model=ScratchModel(kind="scratch"), num_workers=2, global_batch_size=64
)


def test_workers_that_a_machine_cannot_hold_are_refused() -> None:
    require_resources(CONFIG, {"CPU": 2.0})
    with pytest.raises(ConfigError, match="num_workers=2: they want 2 CPU, this machine offers 1"):
        require_resources(CONFIG, {"CPU": 1.0})
    require_resources(CONFIG.model_copy(update={"min_workers": 1}), {"CPU": 1.0})
    on_gpus = CONFIG.model_copy(update={"use_gpu": True})
    with pytest.raises(ConfigError, match="want 2 GPU, this machine offers 0"):
        require_resources(on_gpus, {"CPU": 2.0})
