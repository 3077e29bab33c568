"""Golden: a change of ``tests/golden/deepspeed.json`` is a change of how every model is trained."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from aligner.config import validate
from aligner.errors import ConfigError
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.deepspeed_config import deepspeed_config

GOLDEN = Path(__file__).parents[2] / "golden" / "deepspeed.json"
CASES: Final[dict[str, dict[str, Any]]] = {
    "zero-0": {"precision": "fp32", "zero": {"stage": 0}},
    "zero-1": {"precision": "fp32", "zero": {"stage": 1}},
    "zero-2": {"precision": "fp32", "zero": {"stage": 2}},
    "zero-3": {"zero": {"stage": 3}},
    "zero-1-offload": {"zero": {"stage": 1, "offload_optimizer": True}},
    "zero-2-offload-from-gpu": {"use_gpu": True, "zero": {"stage": 2, "offload_optimizer": True}},
    "zero-3-offload-from-gpu": {"use_gpu": True, "zero": {"offload_optimizer": True}},
    "zero-3-offload-all": {"zero": {"offload_optimizer": True, "offload_parameters": True}},
    "zero-3-recompute-lora": {"gradient_checkpointing": True, "adapter": {"kind": "lora"}},
    "zero-3-sizes": {"zero": {"persistence_threshold": 0, "max_live_parameters": 9,
                              "prefetch_bucket_size": 7}},
}  # fmt: skip


def config(changes: dict[str, Any]) -> TrainConfig:
    base = {"dataset": "d", "out": "o", "model": {"kind": "scratch"}, "num_workers": 8}
    return validate(TrainConfig, {**base, **changes}, where="test")


@pytest.mark.parametrize("case", CASES)
def test_it_gives_what_the_golden_file_holds(case: str) -> None:
    assert deepspeed_config(config(CASES[case])) == json.loads(GOLDEN.read_text())[case]


def test_the_golden_file_holds_no_other_case() -> None:
    assert json.loads(GOLDEN.read_text()).keys() == CASES.keys()


@pytest.mark.parametrize(
    ("zero", "remedy"),
    [
        ({"stage": 0, "offload_optimizer": True}, "try stage=1"),
        ({"stage": 2, "offload_parameters": True}, "try stage=3"),
    ],
)
def test_what_is_not_partitioned_is_not_offloaded(zero: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        config({"zero": zero})
