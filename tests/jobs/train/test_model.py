from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import corpus_of

from aligner.errors import DataError
from aligner.tokens import Example
from aligner_jobs.config.model import Model, PretrainedModel, ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate
from aligner_jobs.train.model import build_model, local_folder
from aligner_jobs.train.objectives import CrossEntropy

TINY = ScratchModel(
    kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300
)
CPU = torch.device("cpu")


def built(
    model: Model = TINY, *, seed: int = 0, gradient_checkpointing: bool = False
) -> torch.nn.Module:
    config = TrainConfig(
        dataset="d",
        out="o",
        model=model,
        precision="fp32",
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
    )
    return build_model(config, vocab_size=300, bos_token_id=1, eos_token_id=2)


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
