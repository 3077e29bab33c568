"""All ways of spreading and laying out the same training have the losses of the golden file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import torch
import zero_group
from safetensors.torch import load_file

from aligner.adapters.hf_tokenizer import open_files
from aligner.records import Triple
from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.export import Export
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import Phase, TrainConfig, Zero
from aligner_jobs.train.material import Material

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden" / "loss_curve.json"
WORDS = ["red", "green", "blue", "high", "low", "old", "new", "far", "near", "calm"]
ROWS = [
    Triple(f"Which {a}?", f"The {very}{a} one, fool.", f"The {very}{a} one.")
    for a in WORDS
    for very in ("", "very ", "very, very ", "rather ", "7 x ", "so so ", "1984 ", "not ")
]
WAYS: Final[dict[str, dict[str, Any]]] = {
    **{f"zero-{stage}-packed": {"stage": stage} for stage in (0, 1, 2, 3)},
    **{f"zero-{stage}-padded": {"stage": stage, "packing": False} for stage in (0, 1, 2, 3)},
    "zero-2-offload": {"stage": 2, "offload_optimizer": True},
    "zero-3-offload-recompute": {
        "stage": 3, "offload_optimizer": True, "offload_parameters": True,
        "gradient_checkpointing": True,
    },
    "zero-0-bf16": {"precision": "bf16"},
    "zero-3-bf16": {"stage": 3, "precision": "bf16"},
    "zero-0-lora": {"adapter": Lora(kind="lora", rank=8)},
    "zero-3-lora-recompute": {
        "stage": 3, "adapter": Lora(kind="lora", rank=8), "gradient_checkpointing": True,
    },
}  # fmt: skip


def config(
    dataset: str,
    *,
    stage: Literal[0, 1, 2, 3] = 0,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
    precision: Literal["fp32", "bf16"] = "fp32",
    **changes: Any,
) -> TrainConfig:
    """20 steps of 16 rows by two workers, each in several passes, exported to several files."""
    spec = ScratchModel(
        kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300
    )
    return TrainConfig(
        dataset=dataset,
        out="o",
        model=spec,
        warmup=Phase(epochs=0),
        correction=Phase(epochs=4, learning_rate=3e-3, lr_warmup_ratio=0.1),
        global_batch_size=16,
        micro_batch_size=3,
        max_length_tokens=120,
        micro_batch_tokens=160,
        num_workers=2,
        precision=precision,
        zero=Zero(
            stage=stage,
            persistence_threshold=0,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
        ),
        export=Export(shard_bytes=100_000),
        **changes,
    )


@pytest.fixture(scope="module")
def material(
    tmp_path_factory: pytest.TempPathFactory,
    write_dataset: Callable[..., str],
    prepared: Callable[[TrainConfig], Material],
) -> Material:
    folder = tmp_path_factory.mktemp("engine")
    return prepared(config(write_dataset(folder / "dataset", ROWS)))


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, material: Material
) -> dict[str, tuple[list[float], Path]]:
    """Losses and weights of two DeepSpeed processes, for every way."""
    folder = tmp_path_factory.mktemp("group")
    vocab_size = open_files(material.tokenizer).vocab_size
    configs = [config("d", **changes) for changes in WAYS.values()]
    losses = zero_group.run(folder, configs, material.phases["correction"], vocab_size=vocab_size)
    places = (folder / str(number) for number in range(len(configs)))
    return dict(zip(WAYS, zip(losses, places, strict=True), strict=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of all files of an export."""
    return {
        name: value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


def test_the_plain_loop_has_the_losses_of_the_golden_file(
    material: Material, plain: Callable[..., tuple[dict[str, list[float]], object]]
) -> None:
    found, _ = plain(config("d"), material)
    assert found["correction"] == pytest.approx(json.loads(GOLDEN.read_text()), abs=1e-3)


@pytest.mark.parametrize("way", [way for way in WAYS if "lora" not in way])
def test_two_workers_have_the_losses_of_the_golden_file(
    trained: dict[str, tuple[list[float], Path]], way: str
) -> None:
    golden = json.loads(GOLDEN.read_text())
    # The numbers of bf16 have three digits.
    assert trained[way][0] == pytest.approx(golden, abs=3e-2 if "bf16" in way else 1e-3)


def test_additions_of_low_rank_learn_alike_whole_and_partitioned(
    trained: dict[str, tuple[list[float], Path]],
) -> None:
    (whole, _), (partitioned, _) = trained["zero-0-lora"], trained["zero-3-lora-recompute"]
    assert partitioned == pytest.approx(whole, abs=1e-3)
    assert whole[-1] < whole[0] - 0.3


def test_additions_are_written_alike_whole_and_partitioned(
    trained: dict[str, tuple[list[float], Path]],
) -> None:
    expected, found = (
        weights(trained[way][1] / "adapter") for way in ("zero-0-lora", "zero-3-lora-recompute")
    )
    assert found.keys() == expected.keys()
    assert any(value.any() for name, value in found.items() if "lora_B" in name)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=2e-3, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_ends_with_the_same_weights(
    trained: dict[str, tuple[list[float], Path]], way: str
) -> None:
    model = "zero-0-lora" if "lora" in way else "zero-0-packed"
    expected, found = weights(trained[model][1]), weights(trained[way][1])
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == (torch.bfloat16 if "bf16" in way else torch.float32)
        torch.testing.assert_close(
            value.float(), expected[name], atol=2e-2 if "bf16" in way else 2e-3, rtol=0
        )
