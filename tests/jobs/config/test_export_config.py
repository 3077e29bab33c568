import pytest

from aligner.config import validate
from aligner.errors import ConfigError
from aligner_jobs.config.train import TrainConfig

BASE = {"dataset": "d", "out": "o", "model": {"kind": "scratch"}}


def config(**changes: object) -> TrainConfig:
    return validate(TrainConfig, {**BASE, **changes}, where="test")


def test_what_leaves_the_weights_as_they_are_does_not_begin_another_run() -> None:
    offloaded = {"offload_optimizer": True, "offload_parameters": True}
    same = config(
        zero=offloaded,
        kernels="torch",
        gradient_checkpointing=True,
        export={"shard_bytes": 9, "parity": {"rows": 3}},
    )
    assert same.run_name("hash") == config().run_name("hash")


def test_an_adapter_begins_another_run() -> None:
    lora = config(adapter={"kind": "lora"})
    assert lora.run_name("hash") != config().run_name("hash")
    assert lora.run_name("hash") != config(adapter={"kind": "lora", "rank": 4}).run_name("hash")


def test_no_row_is_compared_unless_it_is_asked_for() -> None:
    assert config().export.parity.rows == 0
    with pytest.raises(ConfigError, match="tolerance"):
        config(export={"parity": {"tolerance": 0}})


@pytest.mark.parametrize("changes", [{}, {"adapter": {"kind": "lora"}}])
def test_an_adapter_by_itself_needs_a_model_that_others_have_too(
    changes: dict[str, object],
) -> None:
    with pytest.raises(ConfigError, match=r"export.adapter=true needs"):
        config(export={"adapter": True}, **changes)
