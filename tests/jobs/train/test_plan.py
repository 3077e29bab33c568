import re

import pytest

from aligner.config import load
from aligner.errors import ConfigError
from aligner_jobs import programs
from aligner_jobs.config.model import PretrainedModel, ScratchModel, Shape
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.fit import refusal
from aligner_jobs.train.memory import Pass
from aligner_jobs.train.plan import Plan, Workload, flops, plan
from aligner_jobs.train.shapes import shape_of
from aligner_jobs.train.workload import workload_of

NOT_LOOKED_FOR = "plan.sample_rows=0"
LONG = ["max_length_tokens=8192", "gradient_checkpointing=false"]


def shipped(size: str, *overrides: str) -> TrainConfig:
    path = programs.shipped_config("jobs", f"train/{size}.yaml")
    return load(TrainConfig, path, [NOT_LOOKED_FOR, *overrides])


def planned(config: TrainConfig) -> Plan:
    return plan(config, shape_of(config), workload_of(config), {})


def refusals(config: TrainConfig) -> list[str]:
    return refusal(config, shape_of(config), workload_of(config), name="run.yaml")


@pytest.mark.parametrize("size", ["0.5b", "2b", "7b", "13b"])
def test_a_shipped_size_fits_on_the_gpus_it_names(size: str) -> None:
    config = shipped(size)
    assert planned(config).fits
    assert not refusals(config)


def test_the_papers_run_has_the_papers_number_of_steps() -> None:
    """50,000 rows in batches of 256: 196 steps an epoch, and 40 of the 10,000 identity rows."""
    assert planned(shipped("7b")).steps == {"warmup": 40, "correction": 588}


@pytest.mark.parametrize(
    ("size", "overrides", "change"),
    [
        ("7b", ["plan.gpu=a100-40gb", *LONG], "gradient_checkpointing=true"),
        ("7b", ["plan.gpu=a100-40gb", *LONG[1:]], "micro_batch_tokens=2048"),
        ("7b", ["zero.stage=0"], "zero.stage=1"),
        ("13b", ["num_workers=1"], "zero.offload_optimizer=true"),
        ("2b", ["plan.gpu=l4", "num_workers=1"], "gradient_checkpointing|offload|adapter"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_change_that_makes_it_fit(
    size: str, overrides: list[str], change: str
) -> None:
    config = shipped(size, *overrides)
    assert not planned(config).fits
    (sentence,) = refusals(config)
    found = re.search(r"; (--set .*) makes it fit \(", sentence)
    assert found and re.search(change, found[1]), sentence
    sets = [one.strip() for one in found[1].split("--set") if one.strip()]
    assert planned(shipped(size, *overrides, *sets)).fits


def test_a_model_that_no_setting_makes_fit_is_refused_as_well() -> None:
    config = shipped("13b", "use_gpu=false", "plan.memory_gib=4")
    (sentence,) = refusals(config)
    assert "does not fit on this machine" in sentence
    assert sentence.endswith("no other setting makes it fit, take a smaller model.")


def test_a_pass_costs_six_operations_for_each_parameter_and_token() -> None:
    config = shipped("7b", "gradient_checkpointing=false")
    shape = shape_of(config)
    workload = Workload(
        rows={"warmup": 0, "correction": 1}, tokens_per_row=1, targets_per_row=1,
        largest=Pass(1, 1, 1), source="",
    )  # fmt: skip
    # The embedding is looked up, not multiplied.
    multiplied = shape.parameters - shape.embedding_parameters
    assert flops(config, shape, workload) == pytest.approx(6 * multiplied, rel=1e-3)
    again = shipped("7b")
    assert flops(again, shape, workload) == pytest.approx(8 * multiplied, rel=0.01)


def test_time_and_money_follow_from_the_gpus() -> None:
    slow = planned(shipped("7b", "plan.utilisation=0.2"))
    fast = planned(shipped("7b", "plan.utilisation=0.4", "plan.usd_per_hour=10"))
    assert slow.seconds == pytest.approx(2 * fast.seconds)
    assert fast.usd == pytest.approx(8 * 10 * fast.seconds / 3600)
    assert fast.tokens == 512 * (10_000 + 3 * 50_000)


def test_a_checkpoint_that_is_nowhere_needs_a_shape() -> None:
    config = shipped("7b").model_copy(
        update={"model": PretrainedModel(kind="pretrained", path="nobody/nothing")}
    )
    with pytest.raises(ConfigError, match=r"model.path=nobody/nothing: .* set model.shape"):
        shape_of(config)


def test_a_new_model_is_its_own_shape() -> None:
    model = ScratchModel(kind="scratch", hidden_size=64, layers=2, heads=2)
    config = shipped("tiny").model_copy(update={"model": model})
    assert isinstance(shape_of(config), Shape)
    assert shape_of(config).parameters == model.parameters
