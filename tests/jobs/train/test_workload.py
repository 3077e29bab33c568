import json
from pathlib import Path
from typing import Any

import pytest

from aligner import artefacts
from aligner.errors import DataError
from aligner_jobs.config.model import PretrainedModel, ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import epoch_batches, passes_of
from aligner_jobs.train.material import load, survey
from aligner_jobs.train.shapes import shape_of
from aligner_jobs.train.workload import workload_of

SMALL = ScratchModel(kind="scratch", hidden_size=64, layers=2, heads=2, vocab_size=320)


def config(dataset: str, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"model": SMALL, "max_length_tokens": 512, "global_batch_size": 16}
    return TrainConfig(dataset=dataset, out="o", **(settings | changes))


@pytest.mark.parametrize("packing", [True, False])
def test_a_dataset_at_hand_is_measured_as_training_will_find_it(
    small_dataset: str, packing: bool
) -> None:
    settings = config(small_dataset, packing=packing, num_workers=2)
    dataset = artefacts.read_manifest(small_dataset, kind="dataset")
    corpus = load(settings, dataset, survey(settings, dataset)).phases["correction"]
    batches = epoch_batches(len(corpus), global_batch_size=16, seed=settings.seed, epoch=0)
    passes = passes_of(corpus, batches[0], config=settings, world_size=2)

    workload = workload_of(settings)
    assert workload.rows == {"warmup": 24, "correction": len(corpus)}
    assert workload.tokens_per_row == pytest.approx(corpus.lengths.mean())
    assert workload.largest.per_step == len(passes)
    assert workload.largest.targets < workload.largest.tokens
    if packing:
        assert workload.largest.tokens <= settings.pack_tokens
    assert "120 rows of the dataset tokenised, 100.0% of them fit" in workload.source


def test_without_a_dataset_the_plan_settings_say_what_is_assumed(tmp_path: Path) -> None:
    settings = config(str(tmp_path / "later"), global_batch_size=64)
    workload = workload_of(settings)
    assert workload.rows == {"warmup": 10_000, "correction": 50_000}
    assert workload.tokens_per_row == 512
    assert workload.largest.tokens == 512
    assert workload.largest.per_step == 64
    assert workload.source.startswith("assumed")


def test_a_dataset_on_a_storage_that_cannot_be_opened_is_not_at_hand() -> None:
    assert workload_of(config("nowhere://a/b")).source.startswith("assumed")


def test_without_a_tokenizer_tokens_are_guessed_from_characters(small_dataset: str) -> None:
    model = PretrainedModel(kind="pretrained", path="some/model")
    workload = workload_of(config(small_dataset, model=model))
    assert workload.rows["correction"] == 120
    assert 20 < workload.tokens_per_row < 200
    assert "the tokenizer is not at hand" in workload.source


def test_only_aligners_have_identity_rows(tmp_path: Path) -> None:
    objective = {"kind": "sft"}
    assert workload_of(config(str(tmp_path / "x"), objective=objective)).rows["warmup"] == 0


def test_a_dataset_without_a_row_that_fits_is_refused(small_dataset: str) -> None:
    with pytest.raises(DataError, match=r"none of its first 120 rows fits .*=8; raise it"):
        workload_of(config(small_dataset, max_length_tokens=8))


def test_a_checkpoint_at_hand_says_its_shape(tmp_path: Path) -> None:
    found = {
        "model_type": "gemma", "hidden_size": 2048, "num_hidden_layers": 18, "head_dim": 256,
        "num_attention_heads": 8, "num_key_value_heads": 1, "intermediate_size": 16384,
        "vocab_size": 256000,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(found), encoding="utf-8")
    settings = config("d", model=PretrainedModel(kind="pretrained", path=str(tmp_path)))
    assert shape_of(settings).parameters == 2_506_172_416

    del found["hidden_size"]
    (tmp_path / "config.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(DataError, match=r"does not say the model's shape .no 'hidden_size'"):
        shape_of(settings)
