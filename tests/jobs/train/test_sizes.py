"""Sizes side by side, as the child processes that users would get."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aligner.errors import TrainingError
from aligner_jobs.train import sizes
from aligner_jobs.train.comparison import PAGE_FILE
from aligner_jobs.train.size import sizes_of

SMALL: dict[str, Any] = {
    "dataset": "to be set",
    "out": "to be set",
    "model": {"kind": "scratch", "hidden_size": 64, "layers": 1, "heads": 2, "vocab_size": 320},
    "warmup": {"epochs": 0},
    "correction": {"epochs": 1, "learning_rate": 3.0e-3},
    "global_batch_size": 60,
    "max_length_tokens": 512,
    "precision": "fp32",
    "zero": {"stage": 0},
    "heldout": {"rows": 8, "generate_rows": 4},
}


@pytest.mark.e2e
def test_one_that_fails_ends_no_other_and_the_same_command_goes_on(
    small_dataset: str, tmp_path: Path
) -> None:
    models = {
        "small": SMALL["model"],
        "nowhere": {"kind": "pretrained", "path": "./no/such"},
    }
    for name, model in models.items():
        text = yaml.safe_dump(SMALL | {"model": model})
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    names = ",".join(str(tmp_path / f"{name}.yaml") for name in models)
    out, database = tmp_path / "out", tmp_path / "mlflow.db"
    overrides = [f"dataset={small_dataset}", f"out={out}", f"tracking.uri=sqlite:///{database}"]

    for _ in range(2):
        with pytest.raises(TrainingError, match=r"1 of 2 sizes failed \(nowhere: .*no/such"):
            sizes.run(sizes_of(names, overrides), out)

    found = {one["name"]: one for one in json.loads((out / "comparison.json").read_text())}
    assert found["small"]["parameters"] > 0
    assert found["small"]["metrics"]["heldout_loss"] > 0
    assert "there is no such folder" in found["nowhere"]["failure"]
    assert "nothing to do" in (out / "small" / "train.log").read_text(encoding="utf-8")
    assert "nowhere failed" in (out / PAGE_FILE).read_text(encoding="utf-8")
    parents, children = runs_in(f"sqlite:///{database}")
    assert len(parents) == 1
    assert children == list(parents)


def runs_in(uri: str) -> tuple[set[str], list[str]]:
    """Ids of runs without a parent, and the parents of the others."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("aligner")
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    alone = {run_id for run_id, parent in parents.items() if parent is None}
    return alone, [parent for parent in parents.values() if parent is not None]
