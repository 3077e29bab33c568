"""The export artefact, written by one worker; ``test_driver.py`` has those of a whole run."""

import json
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_exports import written
from transformers import AutoModelForCausalLM, GenerationConfig

from aligner import artefacts, exports
from aligner.errors import DataError
from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.export import Export
from aligner_jobs.config.model import PretrainedModel, ScratchModel
from aligner_jobs.config.train import TrainConfig, Zero
from aligner_jobs.train.material import Material

Prepared = Callable[[TrainConfig], Material]


def config(dataset: str, out: Path, **changes: Any) -> TrainConfig:
    shape = ScratchModel(
        kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300
    )
    settings = {"model": shape, "precision": "fp32", "zero": Zero(stage=0), **changes}
    return TrainConfig(dataset=dataset, out=str(out), max_length_tokens=512, **settings)


def test_an_export_is_a_verified_artefact_that_transformers_opens(
    small_dataset: str, tmp_path: Path, prepared: Prepared
) -> None:
    settings = config(small_dataset, tmp_path, export=Export(shard_bytes=60_000))
    manifest, model = written(settings, prepared(settings))
    folder = Path(settings.export_uri)
    artefacts.verify(folder, manifest)
    assert "model.safetensors.index.json" in manifest.files
    assert exports.context_tokens(folder) == 512
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(3, 30)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert loaded.config.use_cache
    told = json.loads((folder / "config.json").read_text())
    assert (told["architectures"], told["dtype"]) == (["LlamaForCausalLM"], "float32")
    assert not any("aligner" in str(value) for value in told.values())


def test_an_export_of_the_same_run_is_kept(
    small_dataset: str, tmp_path: Path, prepared: Prepared
) -> None:
    settings = config(small_dataset, tmp_path)
    first, _ = written(settings, prepared(settings))
    assert written(settings, prepared(settings))[0] == first


def test_what_somebody_else_has_put_there_stays(
    small_dataset: str, tmp_path: Path, prepared: Prepared
) -> None:
    settings = config(small_dataset, tmp_path)
    material = prepared(settings)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "mine.txt").touch()
    with pytest.raises(DataError, match="export: no export there"):
        written(settings, material)
    assert (tmp_path / "export" / "mine.txt").exists()


def test_weights_that_cannot_be_written_leave_nothing_behind(
    small_dataset: str, tmp_path: Path, prepared: Prepared
) -> None:
    settings = config(small_dataset, tmp_path / "out")
    material = prepared(settings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk does, in the midst of a file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be written \(.*too large.*make room"):
            written(settings, material)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("pad", ["eos", None])
def test_a_tokenizer_that_pads_with_eos_or_not_at_all_still_ends_its_corrections(
    small_dataset: str, tmp_path: Path, prepared: Prepared, pad: str | None
) -> None:
    scratch = config(small_dataset, tmp_path / "base")
    written(scratch, prepared(scratch))
    base = tmp_path / "checkpoint"
    shutil.copytree(scratch.export_uri, base)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        told = json.loads((base / name).read_text())
        key = "pad_token" if name.startswith("tokenizer") else "pad_token_id"
        eos = told[key.replace("pad", "eos")]
        told[key] = eos if pad == "eos" else None
        (base / name).write_text(json.dumps(told))
    (base / "manifest.json").unlink()

    settings = config(
        small_dataset, tmp_path / "next", model=PretrainedModel(kind="pretrained", path=str(base))
    )
    material = prepared(settings)
    corpus = material.phases["correction"]
    # EOS stands at the end of every row and has loss, whatever pads.
    assert {int(ids[-1]) for ids in corpus.read(torch.arange(len(corpus)).numpy())} == {2}
    written(settings, material)
    found = GenerationConfig.from_pretrained(settings.export_uri)
    assert (found.eos_token_id, found.pad_token_id) == (2, 2)


def test_an_adapter_stands_beside_the_weights_that_it_is_merged_into(
    small_dataset: str, tmp_path: Path, prepared: Prepared
) -> None:
    scratch = config(small_dataset, tmp_path / "base")
    written(scratch, prepared(scratch))
    settings = config(
        small_dataset,
        tmp_path / "next",
        model=PretrainedModel(kind="pretrained", path=scratch.export_uri),
        adapter=Lora(kind="lora", rank=4),
        export=Export(adapter=True),
    )
    manifest, _ = written(settings, prepared(settings))
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} < set(
        manifest.files
    )
    found = exports.adapter_of(manifest)
    assert found is not None and found.rank == 4
    assert found.base_hash == exports.weights_hash(Path(scratch.export_uri))
    # What was added is still nothing, but here it is a file with other bytes.
    assert found.base_hash != exports.weights_hash(Path(settings.export_uri) / "adapter")
    assert AutoModelForCausalLM.from_pretrained(settings.export_uri).num_parameters() > 0


def test_files_are_readable_by_who_serves_them(
    small_dataset: str, tmp_path: Path, prepared: Prepared
) -> None:
    settings = config(small_dataset, tmp_path)
    written(settings, prepared(settings))
    modes = {stat.S_IMODE(file.stat().st_mode) & 0o044 for file in (tmp_path / "export").iterdir()}
    assert modes == {0o044}
