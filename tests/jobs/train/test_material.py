import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_datasets import simworld_rows

from aligner import artefacts
from aligner.adapters.hf_tokenizer import write_files
from aligner.errors import AlignerError, ConfigError, ContractMismatch, DataError
from aligner.prompt import PLAIN, B, PromptTemplate
from aligner.records import Triple
from aligner_jobs.config.measuring import EarlyStop
from aligner_jobs.config.model import Model, PretrainedModel, ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.material import Material, load, survey
from aligner_jobs.train.tokenizer import train_tokenizer

WriteDataset = Callable[..., str]
SCRATCH = ScratchModel(kind="scratch", vocab_size=300)
ROW = Triple("What is it?", "It is a thing, you fool.", "It is a thing.")


def made(dataset: str, model: Model = SCRATCH, *, max_length_tokens: int = 512) -> Material:
    config = TrainConfig(dataset=dataset, out="o", model=model, max_length_tokens=max_length_tokens)
    manifest = artefacts.read_manifest(dataset, kind="dataset")
    return load(config, manifest, survey(config, manifest))


def checkpoint_folder(folder: Path, *, template: PromptTemplate | None = PLAIN) -> PretrainedModel:
    """As much of a checkpoint as is looked at before training; of ours where it has a template."""
    with artefacts.staging(str(folder)) as staging:
        write_files(train_tokenizer([ROW], template=PLAIN, vocab_size=300), staging.path)
        (staging.path / "config.json").write_text(json.dumps({"max_position_embeddings": 256}))
        (staging.path / "model.safetensors").touch()
        prompt = template or PLAIN
        staging.publish(
            kind="export", name="m", prompt=prompt, prompt_fingerprint=prompt.fingerprint
        )
    if template is None:
        (folder / "manifest.json").unlink()
    return PretrainedModel(kind="pretrained", path=str(folder))


def test_both_phases_and_the_samples_are_there(small_dataset: str) -> None:
    material = made(small_dataset)
    assert (len(material.phases["warmup"]), len(material.phases["correction"])) == (24, 120)
    assert len(material.heldout) == len(material.copy_sample) == 30
    assert material.identity_sample
    assert all(row.is_identity for row in material.identity_sample)
    assert [parent.kind for parent in material.parents] == ["dataset"]


def test_rows_that_are_too_long_are_counted_and_never_cut(small_dataset: str) -> None:
    whole, short = made(small_dataset), made(small_dataset, max_length_tokens=150)
    step = short.funnels["train"]
    assert 0 < step.dropped["too_long"] < step.rows_in == 120
    assert len(short.phases["correction"]) == step.rows_out
    assert short.phases["correction"].lengths.max() <= 150 < whole.heldout.lengths.max()


def test_no_row_that_fits_is_an_error_that_names_the_key(small_dataset: str) -> None:
    with pytest.raises(DataError, match="none of 120 rows fits into max_length_tokens=8; raise"):
        made(small_dataset, max_length_tokens=8)


def test_an_empty_dataset_is_an_error(tmp_path: Path, write_dataset: WriteDataset) -> None:
    with pytest.raises(DataError, match="/train: holds no rows"):
        made(write_dataset(tmp_path / "empty", []))


def test_an_early_stop_wants_held_out_rows(tmp_path: Path, write_dataset: WriteDataset) -> None:
    config = TrainConfig(
        dataset=write_dataset(tmp_path / "d", [ROW]),
        out="o",
        model=SCRATCH,
        max_length_tokens=512,
        early_stop=EarlyStop(),
    )
    manifest = artefacts.read_manifest(config.dataset, kind="dataset")
    with pytest.raises(DataError, match=r"/heldout: no row fits .* set early_stop=null"):
        load(config, manifest, survey(config, manifest))


def test_a_dataset_of_another_rendering_is_refused(
    tmp_path: Path, write_dataset: WriteDataset
) -> None:
    dataset = write_dataset(tmp_path / "old", [ROW], fingerprint="0" * 12)
    with pytest.raises(ContractMismatch, match="made with correction prompt 000000000000"):
        made(dataset)


def test_a_broken_file_is_named(tmp_path: Path, write_dataset: WriteDataset) -> None:
    dataset = write_dataset(tmp_path / "broken", [ROW])
    (tmp_path / "broken" / "train" / "part-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"train/part-00000\.parquet: cannot be read"):
        made(dataset)


def test_a_file_that_is_damaged_inside_is_named(
    tmp_path: Path, write_dataset: WriteDataset
) -> None:
    """Its end, which tells what is where, is whole."""
    dataset = write_dataset(tmp_path / "flipped", simworld_rows(20))
    file = tmp_path / "flipped" / "train" / "part-00000.parquet"
    content = bytearray(file.read_bytes())
    content[200:240] = bytes(255 - byte for byte in content[200:240])
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train/part-00000\.parquet: cannot be read"):
        made(dataset)


def test_an_export_of_ours_becomes_a_parent(tmp_path: Path, write_dataset: WriteDataset) -> None:
    model = checkpoint_folder(tmp_path / "model")
    material = made(write_dataset(tmp_path / "data", [ROW]), model, max_length_tokens=256)
    assert [parent.kind for parent in material.parents] == ["dataset", "export"]


def test_a_foreign_checkpoint_has_no_manifest_and_is_no_parent(
    tmp_path: Path, write_dataset: WriteDataset
) -> None:
    model = checkpoint_folder(tmp_path / "model", template=None)
    material = made(write_dataset(tmp_path / "data", [ROW]), model, max_length_tokens=256)
    assert [parent.kind for parent in material.parents] == ["dataset"]


def test_an_export_for_another_prompt_is_refused(
    tmp_path: Path, write_dataset: WriteDataset
) -> None:
    model = checkpoint_folder(tmp_path / "model", template=B)
    dataset = write_dataset(tmp_path / "data", [ROW])
    with pytest.raises(ContractMismatch, match=f"{B.fingerprint}, the dataset is made for"):
        made(dataset, model, max_length_tokens=256)


def test_more_length_than_the_model_was_made_for_is_refused(
    tmp_path: Path, write_dataset: WriteDataset
) -> None:
    model = checkpoint_folder(tmp_path / "model")
    with pytest.raises(ConfigError, match="made for at most 256; lower it"):
        made(write_dataset(tmp_path / "data", [ROW]), model)


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("model.safetensors", r"holds no \*\.safetensors; pickled weights are not loaded"),
        ("config.json", r"holds no config\.json"),
        ("tokenizer.json", r"holds no tokenizer\.json"),
    ],
)
def test_an_unfit_checkpoint_is_named(
    tmp_path: Path, write_dataset: WriteDataset, lost: str, sentence: str
) -> None:
    model = checkpoint_folder(tmp_path / "model")
    (tmp_path / "model" / lost).unlink()
    with pytest.raises(AlignerError, match=sentence):
        made(write_dataset(tmp_path / "data", [ROW]), model, max_length_tokens=256)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, "its tokenizer names no end-of-sequence token; set eos_token"),
        ({"eos_token": None}, "its tokenizer names no end-of-sequence token"),
        ({"eos_token": "<nowhere>"}, "its tokenizer names no end-of-sequence token"),
    ],
)
def test_a_tokenizer_without_an_end_is_refused_under_its_folders_name(
    tmp_path: Path, write_dataset: WriteDataset, told: dict[str, str | None], sentence: str
) -> None:
    model = checkpoint_folder(tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=f"model: {sentence}"):
        made(write_dataset(tmp_path / "data", [ROW]), model, max_length_tokens=256)
