"""Budgets hold in any minute, whatever the arrivals; times are made up, nothing waits."""

import bisect
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_jobs.budget import Budget, Grant, Meter

SETTINGS = settings(deadline=None, max_examples=60)


def most_in_a_minute(granted: list[tuple[float, int]]) -> int:
    """The largest sum of amounts over any window of 60 s."""
    times = [at for at, _ in granted]
    sums = [0, *itertools.accumulate(amount for _, amount in granted)]
    ends = [bisect.bisect_left(times, at + 60.0) for at in times]
    return max((sums[end] - sums[start] for start, end in enumerate(ends)), default=0)


def sent(budget: Budget, arrivals: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """When each of ``arrivals`` (time, tokens) may go, one after the other."""
    now, granted = 0.0, []
    for arrival, tokens in arrivals:
        now = max(now, arrival)
        while not isinstance(answer := budget.grant(now, tokens), Grant):
            assert answer > 0
            now += answer
        granted.append((now, tokens))
    return granted


arrivals = st.lists(
    st.tuples(st.floats(0, 300, allow_nan=False), st.integers(1, 400)), min_size=1, max_size=300
).map(sorted)


@SETTINGS
@given(arrivals, st.integers(1, 200), st.integers(400, 5000))
def test_no_minute_holds_more_than_the_budget(
    arrivals: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    granted = sent(Budget(requests_per_min=requests, tokens_per_min=tokens), arrivals)
    assert most_in_a_minute([(at, 1) for at, _ in granted]) <= requests
    assert most_in_a_minute(granted) <= tokens


@SETTINGS
@given(arrivals, st.data())
def test_no_minute_holds_more_when_less_is_used_than_was_granted(
    arrivals: list[tuple[float, int]], data: st.DataObject
) -> None:
    budget = Budget(requests_per_min=None, tokens_per_min=1000)
    now, used = 0.0, list[tuple[float, int]]()
    open_grants = list[tuple[Grant, int]]()
    for arrival, tokens in arrivals:
        now = max(now, arrival)
        while not isinstance(grant := budget.grant(now, tokens), Grant):
            now += grant
            for one, real in open_grants:
                budget.settle(one, real)
            open_grants.clear()
        real = data.draw(st.integers(0, tokens))
        open_grants.append((grant, real))
        used.append((now, real))
    assert most_in_a_minute(used) <= 1000


def test_a_minutes_budget_is_spread_over_the_minute() -> None:
    granted = sent(Budget(requests_per_min=600, tokens_per_min=None), [(0.0, 1)] * 600)
    for second in range(58):
        here = sum(second <= at < second + 1 for at, _ in granted)
        assert 9 <= here <= 13, second


def test_the_whole_budget_is_used_when_there_is_enough_to_do() -> None:
    granted = sent(Budget(requests_per_min=600, tokens_per_min=None), [(0.0, 1)] * 3000)
    assert granted[-1][0] == pytest.approx(300, abs=3)


def test_tokens_that_were_not_used_are_granted_again() -> None:
    def seconds(*, used: int) -> float:
        budget, now = Budget(requests_per_min=None, tokens_per_min=60_000), 0.0
        for _ in range(600):
            while not isinstance(grant := budget.grant(now, 1000), Grant):
                now += grant
            budget.settle(grant, used)
        return now

    assert seconds(used=1000) == pytest.approx(600, rel=0.02)
    assert seconds(used=100) == pytest.approx(60, rel=0.05)


def test_a_request_larger_than_the_budget_takes_a_minute_and_is_not_lost() -> None:
    granted = sent(Budget(requests_per_min=None, tokens_per_min=100), [(0.0, 1000)] * 3)
    assert [at for at, _ in granted] == pytest.approx([0, 60, 120], abs=0.5)


def test_more_used_than_granted_is_made_up_for() -> None:
    meter = Meter(600)
    meter.take(0.0, 1)
    meter.correct(0.0, granted=1, used=300)
    assert meter.wait_s(0.5, 1) == pytest.approx(30, abs=1)


def test_no_limit_is_no_wait() -> None:
    budget = Budget(requests_per_min=None, tokens_per_min=None)
    assert all(isinstance(budget.grant(0.0, 10**9), Grant) for _ in range(1000))
