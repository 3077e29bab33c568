"""Turned away now and then changes nothing; turned away mostly makes everybody wait."""

import random

from aligner_jobs.cooldown import Cooldown


def hear(cooldown: Cooldown, now: float, *replies: bool) -> float:
    """The wait after ``replies``, in which true is a 429."""
    for turned_away in replies:
        cooldown.hear(now, turned_away=turned_away)
    return cooldown.wait_s(now)


def test_a_few_refusals_hold_nobody_up() -> None:
    draw = random.Random(0)
    cooldown = Cooldown()
    assert hear(cooldown, 0.0, *(draw.random() < 0.05 for _ in range(10_000))) == 0.0


def test_refusals_in_the_majority_hold_everybody_up_longer_each_time() -> None:
    cooldown, now, waits = Cooldown(), 0.0, []
    for _ in range(8):
        waits.append(hear(cooldown, now, *[True] * 10))
        now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_what_was_sent_before_the_pause_does_not_prolong_it() -> None:
    cooldown = Cooldown()
    first = hear(cooldown, 0.0, *[True] * 10)
    assert hear(cooldown, 0.0, *[True] * 100) == first


def test_good_times_make_the_next_pause_short_again() -> None:
    cooldown = Cooldown()
    now = hear(cooldown, 0.0, *[True] * 10)
    now += hear(cooldown, now, *[True] * 10)
    hear(cooldown, now, *[False] * 20)
    assert hear(cooldown, now, *[True] * 20) == 1.0


def test_the_api_may_ask_for_a_longer_pause() -> None:
    cooldown = Cooldown()
    for _ in range(10):
        cooldown.hear(0.0, turned_away=True, retry_after_s=7.0)
    assert cooldown.wait_s(0.0) == 7.0
