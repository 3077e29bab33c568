"""All ways of spreading and laying out the same training have the losses of the golden file."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zero_group

from aligner.adapters.hf_tokenizer import open_files
from aligner.records import Triple
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import Phase, TrainConfig, Zero
from aligner_jobs.runtime import worker_env
from aligner_jobs.train.material import Material

GOLDEN = Path(__file__).parents[2] / "golden" / "loss_curve.json"
WORDS = ["red", "green", "blue", "high", "low", "old", "new", "far", "near", "calm"]
ROWS = [
    Triple(f"Which {a}?", f"The {very}{a} one, fool.", f"The {very}{a} one.")
    for a in WORDS
    for very in ("", "very ", "very, very ", "rather ", "7 x ", "so so ", "1984 ", "not ")
]
WAYS = [(stage, packing) for stage in (0, 1, 2, 3) for packing in (True, False)]


def config(dataset: str, *, stage: int = 0, packing: bool = True) -> TrainConfig:
    """20 steps of 16 rows by two workers, each in several passes."""
    spec = ScratchModel(
        kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=300
    )
    return TrainConfig(
        dataset=dataset,
        out="o",
        model=spec,
        warmup=Phase(epochs=0),
        correction=Phase(epochs=4, learning_rate=3e-3, lr_warmup_ratio=0.1),
        global_batch_size=16,
        micro_batch_size=3,
        max_length_tokens=120,
        micro_batch_tokens=160,
        packing=packing,
        num_workers=2,
        precision="fp32",
        zero=Zero(stage=stage, persistence_threshold=0),
    )


@pytest.fixture(scope="module")
def material(
    tmp_path_factory: pytest.TempPathFactory,
    write_dataset: Callable[..., str],
    prepared: Callable[[TrainConfig], Material],
) -> Material:
    folder = tmp_path_factory.mktemp("engine")
    return prepared(config(write_dataset(folder / "dataset", ROWS)))


@pytest.fixture(scope="module")
def losses(
    tmp_path_factory: pytest.TempPathFactory, material: Material
) -> dict[tuple[int, bool], list[float]]:
    """Of two DeepSpeed processes, for every way."""
    folder = tmp_path_factory.mktemp("group")
    configs = [config("d", stage=stage, packing=packing) for stage, packing in WAYS]
    vocab_size = open_files(material.tokenizer).vocab_size
    job = (configs, material.phases["correction"], vocab_size)
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    processes = [
        subprocess.Popen(
            [sys.executable, zero_group.__file__, str(rank), str(folder)],
            env={**os.environ, **worker_env(), "PYTHONPATH": path},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = json.loads((folder / "losses.json").read_text())
    return dict(zip(WAYS, found, strict=True))


def test_the_plain_loop_has_the_losses_of_the_golden_file(
    material: Material, plain: Callable[..., tuple[dict[str, list[float]], object]]
) -> None:
    found, _ = plain(config("d"), material)
    assert found["correction"] == pytest.approx(json.loads(GOLDEN.read_text()), abs=1e-3)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_workers_have_the_losses_of_the_golden_file(
    losses: dict[tuple[int, bool], list[float]], stage: int, packing: bool
) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert losses[stage, packing] == pytest.approx(golden, abs=1e-3)
