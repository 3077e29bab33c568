from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import corpus_of

from aligner.errors import ConfigError, DataError
from aligner.tokens import Example
from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.model import Model, PretrainedModel, ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate
from aligner_jobs.train.model import (
    build_model,
    local_folder,
    require_attention,
    uses_liger,
)
from aligner_jobs.train.objectives import CrossEntropy

TINY = ScratchModel(
    kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300
)
CPU = torch.device("cpu")


def config(model: Model = TINY, **changes: Any) -> TrainConfig:
    settings = {"precision": "fp32", "seed": 0, **changes}
    return TrainConfig(dataset="d", out="o", model=model, **settings)


def built(model: Model = TINY, **changes: Any) -> torch.nn.Module:
    return build_model(config(model, **changes), vocab_size=300, bos_token_id=1, eos_token_id=2)


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_equal_seeds_give_equal_weights() -> None:
    assert same_weights(built(), built())
    assert not same_weights(built(), built(seed=1))


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    model = built()
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert same_weights(model, built(PretrainedModel(kind="pretrained", path=str(tmp_path))))


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(DataError, match=r"holds no \*\.safetensors"):
        built(PretrainedModel(kind="pretrained", path=str(tmp_path)))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("./no/such/folder", "there is no such folder"),
        ("nobody/nothing", r"the hub gave nothing: \w+ \(HF_HUB_OFFLINE is set\); check the path"),
    ],
)
def test_a_checkpoint_that_is_nowhere_is_named(path: str, sentence: str) -> None:
    with pytest.raises(DataError, match=f"model.path={path}: .*{sentence}"):
        local_folder(PretrainedModel(kind="pretrained", path=path))


def test_recomputing_activations_changes_no_gradient() -> None:
    corpus = corpus_of([[Example([1, 5, 6], [7, 8, 2])], [Example([1, 9], [10, 2])]])
    gradients = []
    for checkpointing in (False, True):
        model = built(gradient_checkpointing=checkpointing)
        model.train()
        batch = collate(corpus, np.arange(2), packed=True)
        loss = CrossEntropy().total(model, batch, device=CPU)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_shape_has_the_parameters_that_the_planner_counts(family: Any) -> None:
    shape = ScratchModel(
        kind="scratch",
        family=family,
        hidden_size=64,
        layers=2,
        heads=4,
        kv_heads=1,
        head_dim=32,
        intermediate_size=96,
        vocab_size=300,
    )
    model: Any = built(shape)
    assert model.config.model_type == family
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_lora_trains_additions_alone_and_begins_as_nothing() -> None:
    plain, model = built(), built(adapter=Lora(kind="lora", rank=4))
    ids = torch.arange(3, 30)[None]
    assert torch.equal(plain(ids).logits, model(ids).logits)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    # Two factors for each of the seven linear layers; the output layer stays as it is.
    assert len(trained) == 2 * 7 * TINY.layers
    assert all(".lora_" in name for name in trained)


def test_lora_goes_to_the_layers_that_are_named() -> None:
    model = built(adapter=Lora(kind="lora", targets=("q_proj", "v_proj")))
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert len(trained) == 2 * 2 * TINY.layers
    for target in ("w_q", "embed_tokens"):
        with pytest.raises(ConfigError, match=f"the model has no linear layers {target}; it has"):
            built(adapter=Lora(kind="lora", targets=(target,)))


def test_flash_attention_is_refused_where_it_cannot_run() -> None:
    wanted = config(attention="flash_attention_2", use_gpu=True, precision="bf16")
    require_attention(wanted, installed=True)
    with pytest.raises(ConfigError, match="flash-attn is not installed"):
        require_attention(wanted, installed=False)
    with pytest.raises(ConfigError, match="in bf16 on a GPU alone; set attention=sdpa"):
        built(attention="flash_attention_2")


@pytest.mark.parametrize(
    ("kernels", "gpu", "installed", "used"),
    [
        ("auto", True, True, True),
        ("auto", True, False, False),
        ("auto", False, True, False),
        ("torch", True, True, False),
        ("liger", True, True, True),
    ],
)
def test_liger_is_used_on_a_gpu_where_installed(
    kernels: str, gpu: bool, installed: bool, used: bool
) -> None:
    assert uses_liger(config(kernels=kernels, use_gpu=gpu), installed=installed) is used


def test_liger_that_is_asked_for_and_lacks_something_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs the package liger-kernel"):
        uses_liger(config(kernels="liger", use_gpu=True), installed=False)
    with pytest.raises(ConfigError, match="needs use_gpu=true"):
        built(kernels="liger")


def test_a_tokenizer_with_more_tokens_than_the_model_has_vectors_is_refused(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)  # type: ignore[operator]
    larger = config(PretrainedModel(kind="pretrained", path=str(tmp_path)))
    with pytest.raises(DataError, match="has 301 tokens, its embedding 300 rows"):
        build_model(larger, vocab_size=301, bos_token_id=1, eos_token_id=2)
