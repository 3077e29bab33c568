"""Files of weights from one process; ``test_engine.py`` has those of partitioned models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.model import build_model
from aligner_jobs.train.weights import Weight, files_of, weights_of, write_weights

LORA = Lora(kind="lora", rank=4)


def model(*, tied: bool = True, adapter: Lora | None = None) -> Any:
    shape = ScratchModel(
        kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300,
        tied_embeddings=tied,
    )  # fmt: skip
    config = TrainConfig(dataset="d", out="o", model=shape, precision="fp32", adapter=adapter)
    return build_model(config, vocab_size=300, bos_token_id=1, eos_token_id=2)


def write(module: nn.Module, folder: Path, *, shard_bytes: int = 1 << 30) -> OSError | None:
    return write_weights(module, folder, shard_bytes=shard_bytes, partitioned=False)


def weight(name: str, elements: int) -> Weight:
    return Weight(name, torch.zeros(elements, dtype=torch.bfloat16))


def test_files_are_filled_in_order_up_to_their_size() -> None:
    weights = [weight("a", 3), weight("b", 2), weight("c", 9), weight("d", 1), weight("e", 4)]
    files = files_of(weights, shard_bytes=10)
    assert [[one.name for one in file] for file in files] == [["a", "b"], ["c"], ["d", "e"]]


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_what_is_written(tmp_path: Path, tied: bool) -> None:
    written = model(tied=tied)
    written.config.save_pretrained(tmp_path)
    assert write(written, tmp_path, shard_bytes=60_000) is None
    names = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    assert ("lm_head.weight" in names) is not tied
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(3, 30)[None]
    torch.testing.assert_close(loaded(ids).logits, written(ids).logits)


def test_an_index_tells_the_file_of_each_weight(tmp_path: Path) -> None:
    written = model()
    write(written, tmp_path, shard_bytes=60_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(w.size_bytes for w in weights_of(written))
    assert len(set(index["weight_map"].values())) > 2
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, framework="pt") as found:
            assert name in found.keys()  # noqa: SIM118


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    write(model(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_additions_are_merged_into_ordinary_weights(tmp_path: Path) -> None:
    written = model(adapter=LORA)
    for name, parameter in written.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    written.config.save_pretrained(tmp_path)
    write(written, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.state_dict().keys() == model().state_dict().keys()
    ids = torch.arange(3, 30)[None]
    assert not torch.allclose(plain(ids).logits, model()(ids).logits, atol=1e-3)
    torch.testing.assert_close(plain(ids).logits, written(ids).logits)


def test_why_nothing_can_be_written_is_handed_back(tmp_path: Path) -> None:
    assert isinstance(write(model(), tmp_path / "missing"), OSError)


def test_who_has_no_folder_and_no_part_has_nothing_to_do() -> None:
    assert write_weights(model(), None, shard_bytes=1, partitioned=False) is None
