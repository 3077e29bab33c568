import asyncio

import pytest

from aligner_serve.pieces import Usage
from aligner_serve.pipeline import Reply, StageReport
from aligner_serve.quotas import Charging, Ledger, Limits
from aligner_serve.telemetry import Ended, Silent


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admit(ledger: Ledger, limits: Limits, name: str = "ann") -> float:
    return asyncio.run(ledger.admit(name, limits))


def test_a_minutes_worth_is_let_in_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    ledger, limits = Ledger(clock), Limits(requests=6)
    assert [admit(ledger, limits) for _ in range(6)] == [0.0] * 6
    assert admit(ledger, limits) == pytest.approx(10.0)
    clock.now += 9.0
    assert admit(ledger, limits) == pytest.approx(1.0)
    clock.now += 1.0
    assert admit(ledger, limits) == 0.0
    assert admit(ledger, limits) == pytest.approx(10.0)


def test_one_callers_requests_cost_nobody_else() -> None:
    ledger, limits = Ledger(Clock()), Limits(requests=1)
    assert admit(ledger, limits) == 0.0
    assert admit(ledger, limits) > 0.0
    assert admit(ledger, limits, "bob") == 0.0


def test_tokens_may_be_overdrawn_and_are_worked_off() -> None:
    clock = Clock()
    ledger, limits = Ledger(clock), Limits(tokens=60)
    assert admit(ledger, limits) == 0.0
    ledger.charge("ann", 100)
    assert admit(ledger, limits) == pytest.approx(41.0)
    clock.now += 41.0
    assert admit(ledger, limits) == 0.0


def test_a_bucket_holds_no_more_than_a_minutes_worth() -> None:
    clock = Clock()
    ledger, limits = Ledger(clock), Limits(requests=2)
    admit(ledger, limits)
    clock.now += 1e6
    assert [admit(ledger, limits) > 0 for _ in range(3)] == [False, False, True]


def test_a_request_that_waits_for_tokens_is_not_counted() -> None:
    clock = Clock()
    ledger, limits = Ledger(clock), Limits(requests=2, tokens=60)
    admit(ledger, limits)
    ledger.charge("ann", 70)
    for _ in range(5):
        assert admit(ledger, limits) > 0
    clock.now += 11.0
    assert admit(ledger, limits) == 0.0


def test_a_limit_that_is_changed_holds_at_once() -> None:
    ledger = Ledger(Clock())
    admit(ledger, Limits(requests=1))
    assert admit(ledger, Limits(requests=2)) == 0.0
    assert admit(ledger, Limits()) == 0.0


def test_all_stages_are_charged_to_who_asked() -> None:
    ledger, limits = Ledger(Clock()), Limits(tokens=60)
    admit(ledger, limits)
    stages = (
        StageReport("upstream", "up", 1, 5.0, Usage(20, 10), "up"),
        StageReport("corrector", "fixer", 1, 5.0, Usage(20, 11), "models:/fixer/1"),
    )
    end = Reply("corrected", "b", "a", stages=stages)
    Charging(Silent(), ledger).ended(Ended("id", "chat", "up+fixer", "ann", end))
    assert admit(ledger, limits) == pytest.approx(2.0)
