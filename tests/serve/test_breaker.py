import logging

import pytest

from aligner_serve.breaker import Breaker
from aligner_serve.config.upstream import BreakerConfig

CONFIG = BreakerConfig(failures=3, open_s=5.0, longest_open_s=12.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("up", CONFIG, clock=clock)


def admitted(breaker: Breaker) -> int:
    era = breaker.admit()
    assert era is not None
    return era


def state_of(breaker: Breaker) -> str:
    # Through a function: mypy takes a property that was compared for one that stays so.
    return breaker.state


def fail(breaker: Breaker, times: int = 1, retry_after_s: float = 0.0) -> None:
    for _ in range(times):
        breaker.failed(admitted(breaker), "timeout", retry_after_s)


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded(admitted(breaker))
    fail(breaker, 2)
    assert state_of(breaker) == "closed"
    fail(breaker)
    assert (state_of(breaker), breaker.retry_after_s) == ("open", 5.0)
    assert breaker.admit() is None


def test_after_a_while_one_request_tries_and_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 5.0
    assert state_of(breaker) == "half_open"
    trial = admitted(breaker)
    assert breaker.admit() is None
    breaker.succeeded(trial)
    assert state_of(breaker) == "closed"
    fail(breaker, 2)
    assert state_of(breaker) == "closed"


def test_a_trial_that_fails_keeps_it_open_for_twice_as_long_up_to_a_limit(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 3)
    waits = []
    for _ in range(3):
        clock.now += breaker.retry_after_s
        fail(breaker)
        waits.append(breaker.retry_after_s)
    assert waits == [10.0, 12.0, 12.0]
    clock.now += 12.0
    breaker.succeeded(admitted(breaker))
    fail(breaker, 3)
    assert breaker.retry_after_s == 5.0


def test_a_trial_that_comes_to_nothing_leaves_the_next_one_to_try(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += 5.0
    breaker.unknown(admitted(breaker))
    breaker.succeeded(admitted(breaker))
    assert state_of(breaker) == "closed"


def test_requests_from_before_it_opened_have_no_say(breaker: Breaker, clock: Clock) -> None:
    slow = [admitted(breaker) for _ in range(8)]
    fail(breaker, 3)
    clock.now += 4.0
    breaker.failed(slow[0], "timeout")
    breaker.succeeded(slow[1])
    assert (state_of(breaker), breaker.retry_after_s) == ("open", 1.0)
    clock.now += 1.0
    trial = admitted(breaker)
    breaker.failed(slow[2], "timeout")
    breaker.unknown(slow[3])
    assert breaker.admit() is None
    breaker.succeeded(trial)
    assert state_of(breaker) == "closed"


def test_an_upstream_that_says_how_long_is_left_alone_for_so_long(breaker: Breaker) -> None:
    fail(breaker, 3, retry_after_s=8.0)
    assert breaker.retry_after_s == 8.0


def test_nobody_is_left_alone_for_a_day(breaker: Breaker) -> None:
    fail(breaker, 3, retry_after_s=86_400.0)
    assert breaker.retry_after_s == 12.0


def test_a_change_is_logged_once(
    breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fail(breaker, 3)
        clock.now += 5.0
        breaker.succeeded(admitted(breaker))
        breaker.succeeded(admitted(breaker))
    assert [record.getMessage() for record in caplog.records] == [
        "upstream up: not asked for 5 s after 3 failures in a row, the last: timeout",
        "upstream up: answers again",
    ]
