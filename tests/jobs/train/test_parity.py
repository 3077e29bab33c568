from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_exports import written

from aligner.errors import TrainingError
from aligner_jobs.config.export import Export, Parity
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig, Zero
from aligner_jobs.train.material import Material
from aligner_jobs.train.parity import (
    Agreement,
    Reading,
    Reply,
    agreement,
    parity_metrics,
    read_replies,
    require_agreement,
)


def config(dataset: str, out: Path, *, rows: int, tolerance: float | None = None) -> TrainConfig:
    shape = ScratchModel(
        kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300,
        initializer_range=0.2,
    )  # fmt: skip
    return TrainConfig(
        dataset=dataset,
        out=str(out),
        model=shape,
        precision="fp32",
        zero=Zero(stage=0),
        max_length_tokens=512,
        export=Export(parity=Parity(rows=rows, new_tokens=16, tolerance=tolerance)),
    )


def test_equal_numbers_agree_and_a_better_token_does_not() -> None:
    replies = [Reply([1], [7, 8], [-0.5, -1.0]), Reply([1], [9], [-0.25])]
    readings = [Reading([-0.5, -1.25], [-0.5, -0.25]), Reading([-0.25], [-0.25])]
    assert agreement(replies, readings, tolerance=0.5) == Agreement(3, 0.25, 1)
    # As good as the best, within what the arithmetic can tell apart.
    assert agreement(replies, readings, tolerance=1.0) == Agreement(3, 0.25, 0)


@pytest.mark.parametrize("found", [Agreement(48, 0.02, 0), Agreement(48, 0.001, 1)])
def test_a_model_that_the_two_disagree_about_is_refused(tmp_path: Path, found: Agreement) -> None:
    settings = config("d", tmp_path, rows=3)
    require_agreement(Agreement(48, 0.009, 0), settings)
    with pytest.raises(TrainingError, match=r"of 48 tokens .* \(export.parity.tolerance=0.01\)"):
        require_agreement(found, settings)
    if not found.other_tokens:
        require_agreement(found, config("d", tmp_path, rows=3, tolerance=0.1))


def test_a_reply_is_read_as_the_model_goes_on_from_the_prompt(
    small_dataset: str, tmp_path: Path, prepared: Callable[[TrainConfig], Material]
) -> None:
    settings = config(small_dataset, tmp_path, rows=0)
    _, model = written(settings, prepared(settings))
    prompt = list(range(3, 20))
    greedy = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)
    reply = greedy[0, len(prompt) :].tolist()
    (found,) = read_replies(tmp_path / "export", [(prompt, reply)], dtype="float32", gpu=False)
    assert found.logprobs == found.best
    (other,) = read_replies(tmp_path / "export", [(prompt, [4, 5])], dtype="float32", gpu=False)
    assert other.logprobs[0] < other.best[0]


def test_nothing_is_started_where_no_rows_are_asked_for(
    small_dataset: str, tmp_path: Path, prepared: Callable[[TrainConfig], Material]
) -> None:
    settings = config(small_dataset, tmp_path, rows=0)
    manifest, _ = written(settings, prepared(settings))
    assert parity_metrics(settings, manifest) == {}


@pytest.mark.e2e
def test_vllm_and_transformers_agree_about_an_export(
    small_dataset: str, tmp_path: Path, prepared: Callable[[TrainConfig], Material]
) -> None:
    settings = config(small_dataset, tmp_path, rows=3)
    manifest, _ = written(settings, prepared(settings))
    metrics = parity_metrics(settings, manifest)
    assert metrics["parity_tokens"] == 3 * 16
    assert 0 < metrics["parity_largest_difference"] < 1e-3
