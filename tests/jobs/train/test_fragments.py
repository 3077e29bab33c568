"""Checkpoints that outlive the number of workers and the ZeRO stage that wrote them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEMBER = Path(__file__).parents[2] / "fakes" / "elastic_group.py"

Item = tuple[int, dict[str, Any], int]


def zero(stage: int, **others: object) -> dict[str, Any]:
    return {"zero": {"stage": stage, "persistence_threshold": 20, **others}}


def losses(folder: Path, plan: list[Item]) -> list[float]:
    """After each item of ``plan``, by a group of processes as large as the largest of them."""
    folder.mkdir()
    command = [sys.executable, str(MEMBER)]
    members = [
        subprocess.Popen(
            [*command, str(rank), str(folder), json.dumps(plan)],
            env={**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(max(workers for workers, _, _ in plan))
    ]
    ends = [(member.communicate(timeout=600)[1], member.returncode) for member in members]
    for text, code in ends:
        assert code == 0, text.decode()[-3000:]
    return [float((folder / f"losses-{n}.json").read_text()) for n in range(len(plan))]


@pytest.mark.e2e
def test_any_number_of_workers_goes_on_from_any_other(tmp_path: Path) -> None:
    """2 -> 1 -> 4 workers, and every stage after another one, end as one worker alone does."""
    offload = zero(3, offload_optimizer=True, offload_parameters=True)
    plan: list[Item] = [
        (2, zero(1), 3),
        (1, zero(2), 6),
        (4, zero(3), 9),
        (2, offload, 10),
        (1, zero(0), 12),
        (2, zero(0), 13),
        (4, zero(2, offload_optimizer=True), 15),
        # From here in bf16, whose masters and moments are in fp32 all the same.
        (1, {"precision": "bf16", **zero(3)}, 15),
        (2, {"precision": "bf16", **zero(1)}, 15),
        (1, {"precision": "bf16", **zero(0)}, 15),
        (2, zero(0), 18),
    ]
    found = losses(tmp_path / "elastic", plan)
    alone = losses(tmp_path / "alone", [(1, zero(0), 15), (1, zero(0), 18)])
    assert found[6] == pytest.approx(alone[0], abs=1e-6)
    assert found[7] == pytest.approx(found[6], abs=2e-2)
    assert found[7] == found[8] == found[9]
    assert found[10] == pytest.approx(alone[1], abs=1e-6)
