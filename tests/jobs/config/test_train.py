from pathlib import Path
from typing import Any

import pytest

from aligner.config import load, validate
from aligner.errors import ConfigError
from aligner_jobs.config.train import TrainConfig

SHIPPED = Path(__file__).parents[3] / "jobs" / "configs" / "train"
MINIMAL: dict[str, Any] = {"dataset": "d", "out": "o", "model": {"kind": "scratch"}}


def config(**changes: object) -> TrainConfig:
    return validate(TrainConfig, MINIMAL | changes, where="test.yaml")


def test_defaults_are_those_of_the_paper() -> None:
    paper = config()
    assert paper.correction.model_dump() == {
        "epochs": 3,
        "learning_rate": 2e-5,
        "lr_warmup_ratio": 0.03,
    }
    assert (paper.optimizer.beta1, paper.optimizer.beta2) == (0.9, 0.95)
    assert (paper.optimizer.weight_decay, paper.optimizer.gradient_clipping) == (0.0, 1.0)
    assert (paper.max_length_tokens, paper.global_batch_size, paper.seed) == (2048, 256, 42)
    assert (paper.precision, paper.zero.stage) == ("bf16", 3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_workers": 2, "min_workers": 3}, "min_workers=3 is more than num_workers=2; lower"),
        ({"warmup": {"epochs": 0}, "correction": {"epochs": 0}}, "both 0; raise one"),
        ({"register_as": "m", "tracking": {"uri": "http://server:5000"}}, "out=o is a folder of"),
        ({"model": {"kind": "scratch", "heads": 3}}, "must be an even multiple of heads=3"),
        ({"model": {"kind": "gpt"}}, "'scratch', 'pretrained'"),
        ({"modle": 1}, "key 'modle' is unknown, did you mean 'model'"),
        ({"out": " "}, "key 'out': must name a folder"),
        ({"correction": {"learning_rte": 1}}, "did you mean 'learning_rate'"),
    ],
)
def test_a_wrong_key_is_named_with_its_remedy(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config(**changes)


def test_a_run_is_named_by_what_decides_its_weights() -> None:
    name = config().run_name("hash")
    same: dict[str, object] = {
        "out": "elsewhere",
        "num_workers": 2,
        "micro_batch_size": 8,
        "max_failures": 0,
        "log_every_steps": 1,
    }
    assert config(**same).run_name("hash") == name
    assert config().run_name("another hash") != name
    assert config(seed=1).run_name("hash") != name
    assert config(correction={"epochs": 1}).run_name("hash") != name


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_heads_suit_vllm_on_a_cpu(path: Path) -> None:
    model = load(TrainConfig, path).model
    if model.kind == "scratch":
        assert model.hidden_size // model.heads in (32, 64, 80, 96, 112, 128)
