"""How long first tokens are waited for, on a clock of the test's own."""

from aligner_serve.first_tokens import FirstTokens


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[FirstTokens, Clock]:
    clock = Clock()
    return FirstTokens(recent_s=10, clock=clock), clock


def test_where_nobody_asks_nobody_waits() -> None:
    tokens, _ = made()
    assert tokens.seconds() == 0


def test_nine_of_ten_have_waited_no_longer() -> None:
    tokens, clock = made()
    calls = [tokens.called() for _ in range(10)]
    for call in calls[:9]:
        tokens.came(call)
    clock.now += 5
    tokens.came(calls[9])
    assert tokens.seconds() == 0
    slow = tokens.called()
    clock.now += 3
    tokens.came(slow)
    assert tokens.seconds() == 3


def test_only_the_first_token_of_a_call_counts() -> None:
    tokens, clock = made()
    call = tokens.called()
    clock.now += 1
    tokens.came(call)
    clock.now += 5
    tokens.came(call)
    assert tokens.seconds() == 1


def test_an_engine_that_is_stuck_is_seen_by_those_who_still_wait() -> None:
    tokens, clock = made()
    quick, stuck = tokens.called(), tokens.called()
    tokens.came(quick)
    clock.now += 7
    assert tokens.seconds() == 7
    tokens.over(stuck)
    assert tokens.seconds() == 0


def test_what_was_long_ago_is_forgotten() -> None:
    tokens, clock = made()
    call = tokens.called()
    clock.now += 4
    tokens.came(call)
    clock.now += 10
    assert tokens.seconds() == 4
    clock.now += 1
    assert tokens.seconds() == 0
