"""What LoRA has added, by itself; ``test_weights.py`` has it merged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.adapter_file import write_adapter
from aligner_jobs.train.model import build_model
from aligner_jobs.train.weights import write_weights


def model(adapter: Lora | None) -> Any:
    shape = ScratchModel(
        kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300
    )
    config = TrainConfig(dataset="d", out="o", model=shape, precision="fp32", adapter=adapter)
    return build_model(config, vocab_size=300, bos_token_id=1, eos_token_id=2)


def trained(adapter: Lora) -> Any:
    made = model(adapter)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return made


def write(module: nn.Module, folder: Path | None, spec: Lora) -> OSError | None:
    return write_adapter(module, folder, spec=spec, base="base", partitioned=False)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
def test_peft_adds_it_to_the_model_that_it_was_trained_on(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    plain = model(None)
    base.mkdir()
    plain.config.save_pretrained(base)
    write_weights(plain, base, shard_bytes=1 << 30, partitioned=False)
    spec = Lora(kind="lora", rank=4, alpha=12.0, targets=("q_proj", "down_proj"))
    written = trained(spec)
    assert write(written, adapter, spec) is None

    loaded = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.arange(3, 30)[None]
    assert not torch.allclose(loaded(ids).logits, written(ids).logits, atol=1e-3)
    added = PeftModel.from_pretrained(loaded, adapter)
    torch.testing.assert_close(added(ids).logits, written(ids).logits)


def test_why_it_cannot_be_written_is_handed_back(tmp_path: Path) -> None:
    spec = Lora(kind="lora", rank=4)
    assert isinstance(write(model(spec), tmp_path / "missing" / "adapter", spec), OSError)


def test_who_has_no_folder_and_no_part_has_nothing_to_do() -> None:
    spec = Lora(kind="lora", rank=4)
    assert write(model(spec), None, spec) is None
