"""Training through the real engines: Ray Train's worker group and DeepSpeed."""

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import kill_all
from running import processes_below
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligner import artefacts
from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.config import load
from aligner.errors import DataError
from aligner.records import Triple
from aligner.splits import split_of
from aligner_jobs.config.measuring import Heldout
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import Checkpoints, Phase, TrainConfig, Zero
from aligner_jobs.train import driver
from aligner_jobs.train.rows_seen import EpochRows, checksum

FAKES = Path(__file__).parents[2] / "fakes"
SHIPPED = Path(__file__).parents[3] / "jobs" / "configs" / "train"
CAI = Path(__file__).parents[4] / "shared" / "data" / "cai_revisions.jsonl.gz"
SMALL = ScratchModel(
    kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=320
)


def config(dataset: str, out: Path, **changes: object) -> TrainConfig:
    """2 + 48 steps of 16 rows by two workers; 120 rows leave a last batch of 8."""
    settings = TrainConfig(
        dataset=dataset,
        out=str(out),
        model=SMALL,
        register_as="small",
        warmup=Phase(epochs=1, learning_rate=3e-3),
        correction=Phase(epochs=6, learning_rate=1e-3),
        max_length_tokens=512,
        global_batch_size=16,
        micro_batch_size=4,
        num_workers=2,
        precision="fp32",
        zero=Zero(stage=1),
        checkpoints=Checkpoints(every_steps=4),
        heldout=Heldout(every_steps=100, generate_rows=4),
        log_every_steps=1,
    )
    return settings.model_copy(update=changes)


def kill_a_worker() -> None:
    """End one training worker of the Ray that this process has started, without warning."""
    workers = [
        process for process, command in processes_below().items() if "RayTrainWorker" in command
    ]
    os.kill(workers[-1].pid, signal.SIGKILL)


@pytest.mark.e2e
def test_a_killed_worker_costs_nothing_but_time(
    small_dataset: str,
    tmp_path: Path,
    tracker: Any,
    plain: Callable[..., Any],
    prepared: Callable[..., Any],
) -> None:
    """One run holds it all: the plain loop's losses, a kill, the resumed rest, the export."""
    settings = config(small_dataset, tmp_path / "out")
    kills: list[int] = []

    def kill_once(metrics: Mapping[str, float], step: int) -> None:
        if "correction/loss" in metrics and step >= 9 and not kills:
            kills.append(step)
            kill_a_worker()

    tracker.only.on_metrics = kill_once
    result = driver.run(settings, tracker=tracker)

    assert kills
    assert [phase for phase, _ in result.resumed_at] == ["correction"]
    losses, model = plain(settings, prepared(settings))
    for phase, expected in losses.items():
        logged = tracker.only.metrics[f"{phase}/loss"]
        assert sorted(logged) == list(range(1, len(expected) + 1))
        assert [logged[step] for step in sorted(logged)] == pytest.approx(expected, abs=1e-3)
    assert result.metrics["heldout_loss"] < result.metrics["heldout_loss_before"]
    assert {"copy_rate", "identity_rate"} <= set(result.metrics)
    check_export(result, model)
    check_lineage(result, tracker, small_dataset)

    again = driver.run(settings, tracker=tracker)
    assert again.reused
    assert len(tracker.opened) == 1
    other = settings.model_copy(update={"seed": 1})
    with pytest.raises(DataError, match="with other settings or on another dataset"):
        driver.run(other, tracker=tracker)


def check_export(result: driver.TrainResult, expected: torch.nn.Module) -> None:
    """It loads by itself, and holds the weights of the plain loop."""
    folder = Path(result.export_uri)
    artefacts.verify(folder, result.manifest)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    weights = loaded.state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(weights[name], value, atol=5e-3, rtol=0)
    text = "Bring 1984 kegs to Ulmen."
    ours, theirs = HfTokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert loaded.generation_config.eos_token_id == ours.eos_token_id


def check_lineage(result: driver.TrainResult, tracker: Any, dataset: str) -> None:
    parent = artefacts.read_manifest(dataset, kind="dataset")
    (version,) = tracker.versions["small"]
    assert version == result.version
    assert (version.name, version.source) == ("small", result.export_uri)
    assert version.tags == {
        "prompt_fingerprint": parent.prompt_fingerprint,
        "dataset_hash": parent.content_hash,
        "dataset_uri": dataset,
        "export_hash": result.manifest.content_hash,
    }
    assert [p.content_hash for p in result.manifest.parents] == [parent.content_hash]
    assert tracker.only.datasets == [(parent.content_hash, "training")]


@pytest.mark.e2e
def test_zero_3_learns_real_revisions_and_resumes_by_the_same_command(
    revisions: str,
    tmp_path: Path,
    tracker: Any,
    plain: Callable[..., Any],
    prepared: Callable[..., Any],
) -> None:
    """Stopped with 2 workers, killed with 1, brought to the end by 4."""
    overrides = [f"dataset={revisions}", f"out={tmp_path / 'out'}", "correction.epochs=4"]
    often = ["log_every_steps=1", "checkpoints.every_steps=4"]
    partitioned = ["zero={stage: 3, persistence_threshold: 0}"]
    settings = load(TrainConfig, SHIPPED / "scratch-real.yaml", [*overrides, *often, *partitioned])

    def ask_to_stop(metrics: Mapping[str, float], step: int) -> None:
        if "correction/loss" in metrics and step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    tracker.only.on_metrics = ask_to_stop
    with pytest.raises(KeyboardInterrupt):
        driver.run(settings, tracker=tracker)
    stopped_at = furthest_checkpoint(settings)
    kill_the_driver_at(stopped_at + 8, settings.model_copy(update={"num_workers": 1}), tmp_path)
    killed_at = furthest_checkpoint(settings)
    tracker.only.on_metrics = lambda metrics, step: None
    four = settings.model_copy(update={"num_workers": 4})
    result = driver.run(four, tracker=tracker)

    # Stopped at once, and not at the next checkpoint that was due.
    assert stopped_at >= 3
    ((phase, step),) = result.resumed_at
    assert phase == "correction"
    assert stopped_at < step <= killed_at
    assert tracker.opened == [None, "run-1"]
    assert result.metrics["heldout_loss"] < 0.95 * result.metrics["heldout_loss_before"]
    material = prepared(settings)
    losses, model = plain(settings, material)
    last = tracker.only.metrics["correction/loss"][len(losses["correction"])]
    assert last == pytest.approx(losses["correction"][-1], abs=1e-3)
    check_export(result, model)
    assert result.manifest.facts["epochs"] == [
        EpochRows(phase, epoch, len(corpus), checksum(np.arange(len(corpus)))).fact
        for phase, corpus in material.phases.items()
        for epoch in range(settings.phase(phase).epochs)
    ]


def furthest_checkpoint(settings: TrainConfig) -> int:
    """Its step in the correction phase."""
    folders = Path(settings.out, "checkpoints").glob("train-*/correction-*")
    return max(int(folder.name.split("-")[1]) for folder in folders)


def kill_the_driver_at(step: int, settings: TrainConfig, folder: Path) -> None:
    """Train in another process, which is killed with all that it has started."""
    (folder / "config.json").write_text(settings.model_dump_json())
    command = [sys.executable, str(FAKES / "train_driver.py"), str(folder / "config.json")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{") and json.loads(line)["step"] >= step:
                break
        else:
            raise AssertionError(f"the driver ended before step {step}")
        kill_all(process)


@pytest.fixture
def revisions(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Real edits of a model's answers; simulated ones where the real data is not at hand."""
    if not CAI.is_file():
        return str(request.getfixturevalue("small_dataset"))
    with gzip.open(CAI, "rt", encoding="utf-8") as lines:
        raw = [json.loads(line) for line in itertools.islice(lines, 160)]
    splits: dict[str, list[Triple]] = {"train": [], "heldout": []}
    for row in (Triple(row["question"], row["answer"], row["correction"]) for row in raw):
        splits[split_of(row.question_id, heldout_share=0.1)].append(row)
    write = request.getfixturevalue("write_dataset")
    return str(write(tmp_path / "revisions", splits["train"], splits["heldout"]))
