import math
from dataclasses import replace
from typing import Any

import pytest

from aligner.dataset_gates import DatasetGates, DatasetNumbers, hold


def failed(gates: DatasetGates | None = None, **changed: Any) -> list[str]:
    usual = DatasetNumbers(copy_rate=0.3, mean_similarity=0.7, dropped_share=0.2)
    numbers = replace(usual, **changed)
    return [check.name for check in hold(numbers, gates or DatasetGates()) if not check.passed]


def test_a_usual_dataset_passes() -> None:
    assert failed() == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"copy_rate": 0.81}, "max_copy_rate"),
        ({"mean_similarity": 0.04}, "min_mean_similarity"),
        ({"dropped_share": 0.91}, "max_dropped_share"),
        ({"mean_similarity": math.nan}, "min_mean_similarity"),
    ],
)
def test_each_threshold_fails_by_its_name(changed: dict[str, Any], name: str) -> None:
    assert failed(**changed) == [name]


def test_a_value_at_its_threshold_passes() -> None:
    assert failed(copy_rate=0.8, mean_similarity=0.05, dropped_share=0.9) == []


def test_thresholds_can_be_set() -> None:
    assert failed(DatasetGates(max_copy_rate=0.2)) == ["max_copy_rate"]
