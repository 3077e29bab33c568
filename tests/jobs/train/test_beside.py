import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import Checkpoint

from aligner.adapters.hf_tokenizer import open_files
from aligner_jobs.config.measuring import Beside, EarlyStop, Heldout
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import Phase, TrainConfig, Zero
from aligner_jobs.train import beside, driver
from aligner_jobs.train.evaluation import evaluate
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.material import Material
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy
from aligner_jobs.train.progress import News, Place
from aligner_jobs.train.state_files import Fragment, write_fragments

Prepare = Callable[[TrainConfig], Material]
ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))
SMALL = ScratchModel(
    kind="scratch", hidden_size=32, layers=1, heads=2, intermediate_size=48, vocab_size=320
)


def config_on(dataset: str) -> TrainConfig:
    return TrainConfig(
        dataset=dataset,
        out="out",
        model=SMALL,
        precision="fp32",
        max_length_tokens=512,
        heldout=Heldout(rows=10, sample_rows=2, generate_rows=2, beside=Beside(cpus=0)),
    )


def keep(model: torch.nn.Module, folder: Path) -> Checkpoint:
    """A checkpoint with the weights of ``model``, and nothing else."""
    write_fragments(
        folder, [fragment(name, values) for name, values in model.named_parameters()], rank=0
    )
    return Checkpoint.from_directory(folder)


def fragment(name: str, parameter: torch.nn.Parameter) -> Fragment:
    values = parameter.detach().flatten()
    return Fragment(name, 0, len(values), read=lambda kind: values, write=lambda kind, values: None)


def test_a_checkpoint_is_measured_as_the_model_it_was_made_of(
    small_dataset: str, tmp_path: Path, prepared: Prepare
) -> None:
    config = config_on(small_dataset)
    material = prepared(config)
    tokenizer = open_files(material.tokenizer)
    model = build_model(
        config.model_copy(update={"seed": 7}),
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    expected = evaluate(
        beside.Alone(model, ALONE.device),
        material,
        rows=2,
        loss=CrossEntropy(),
        tokenizer=tokenizer,
        config=config,
        group=ALONE,
    )
    found = beside._evaluated(
        keep(model, tmp_path),
        config=config,
        material=material,
        news=News("correction", 3, evaluated=True),
    )
    assert (found.phase, found.step, found.evaluated) == ("correction", 3, True)
    assert found.metrics["heldout_loss"] == pytest.approx(expected.metrics["heldout_loss"])
    assert list(found.samples) == list(expected.samples)
    assert set(found.metrics) == set(expected.metrics)


def test_an_evaluation_is_left_out_while_the_one_before_is_under_way() -> None:
    done: dict[Place, dict[str, float]] = {}
    requests = beside.Requests(Beside(timeout_s=60), evaluations=lambda: done, group=ALONE)
    first = requests.new(("correction", 10))
    assert first is not None
    assert first.fn_kwargs == {"phase": "correction", "step": 10}
    assert requests.new(("correction", 20)) is None
    done["correction", 10] = {"heldout_loss": 1.0}
    assert requests.found() == done
    assert requests.new(("correction", 30)) is not None


def test_an_evaluation_that_never_ended_is_not_waited_for() -> None:
    requests = beside.Requests(Beside(timeout_s=0.01), evaluations=dict, group=ALONE)
    assert requests.new(("correction", 10)) is not None
    time.sleep(0.02)
    assert requests.new(("correction", 20)) is not None


@pytest.mark.e2e
def test_training_goes_on_while_it_is_evaluated_and_ends_when_it_gains_no_more(
    small_dataset: str, tmp_path: Path, tracker: Any
) -> None:
    """No evaluation gains 100 nats, so that the third one heard of ends it."""
    # Of eight steps: far more than are trained during three evaluations, however slow these are.
    epochs = 4000
    config = config_on(small_dataset).model_copy(
        update={
            "out": str(tmp_path / "out"),
            "warmup": Phase(epochs=0),
            "correction": Phase(epochs=epochs, learning_rate=1e-3),
            "global_batch_size": 16,
            "zero": Zero(stage=1),
            "early_stop": EarlyStop(patience=2, min_gain=100.0),
        }
    )
    every = config.heldout.model_copy(update={"every_steps": 5})
    result = driver.run(config.model_copy(update={"heldout": every}), tracker=tracker)

    last = max(tracker.only.metrics["correction/loss"])
    assert 10 < last < 8 * epochs
    (before, *evaluated) = sorted(tracker.only.metrics["correction/heldout_loss"])
    assert before == 0
    assert len(evaluated) >= 2
    assert all(step % 5 == 0 for step in evaluated)
    assert result.metrics["best_heldout_step"] == 0
    shown = [f"samples/correction-{step:07d}" for step in (*evaluated, last)]
    assert sorted(tracker.only.tables) == sorted(set(shown))
    assert "training.html" in tracker.only.artifacts
    assert driver.run(config, tracker=tracker).reused
