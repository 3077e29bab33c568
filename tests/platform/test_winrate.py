import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.judging import Verdict
from aligner.winrate import WinRate, mean_interval, mean_omega

COUNTS = st.integers(min_value=0, max_value=2000)
RATES = st.builds(WinRate, wins=COUNTS, losses=COUNTS, ties=COUNTS).filter(lambda r: r.total > 0)


def test_omega_is_wins_less_losses_over_all() -> None:
    verdicts: list[Verdict] = [
        "win",
        "win",
        "win",
        "win",
        "win",
        "win",
        "loss",
        "loss",
        "tie",
        "tie",
    ]
    rate = WinRate.of(verdicts)
    assert (rate.wins, rate.losses, rate.ties, rate.total) == (6, 2, 2, 10)
    assert rate.omega == pytest.approx(0.4)


def test_without_verdicts_nothing_is_known() -> None:
    rate = WinRate.of([])
    assert math.isnan(rate.omega)
    assert all(math.isnan(end) for end in rate.interval)
    assert math.isnan(mean_omega([]))
    assert all(math.isnan(end) for end in mean_interval([]))


@given(RATES)
def test_omega_and_its_interval_stay_within_bounds(rate: WinRate) -> None:
    low, high = rate.interval
    assert -1.0 <= low < high <= 1.0
    assert -1.0 <= rate.omega <= 1.0


@given(RATES)
def test_the_interval_contains_omega(rate: WinRate) -> None:
    low, high = rate.interval
    assert low - 1e-12 <= rate.omega <= high + 1e-12


@given(RATES)
def test_swapping_wins_and_losses_mirrors_everything(rate: WinRate) -> None:
    mirrored = WinRate(wins=rate.losses, losses=rate.wins, ties=rate.ties)
    assert mirrored.omega == pytest.approx(-rate.omega)
    low, high = rate.interval
    assert mirrored.interval == pytest.approx((-high, -low))


@given(RATES, st.integers(min_value=2, max_value=10))
def test_more_verdicts_of_the_same_kind_narrow_the_interval(rate: WinRate, times: int) -> None:
    more = WinRate(wins=rate.wins * times, losses=rate.losses * times, ties=rate.ties * times)
    assert more.spread < rate.spread


def test_the_interval_keeps_a_width_without_one_loss() -> None:
    low, high = WinRate(wins=0, losses=0, ties=150).interval
    assert low < 0 < high
    assert high < 0.02


def test_the_interval_agrees_with_the_published_formula() -> None:
    """Agresti and Min: (b - c) / (n + 2) with half a verdict more in each of the four cells."""
    wins, losses, ties = 40, 10, 100
    n = wins + losses + ties + 2
    centre = (wins - losses) / n
    variance = ((wins + 0.5 + losses + 0.5) - (wins - losses) ** 2 / n) / n**2
    expected = (centre - 1.959964 * math.sqrt(variance), centre + 1.959964 * math.sqrt(variance))
    assert WinRate(wins=wins, losses=losses, ties=ties).interval == pytest.approx(expected)


@given(st.lists(RATES, min_size=1, max_size=12))
def test_the_mean_lies_within_its_interval(rates: list[WinRate]) -> None:
    low, high = mean_interval(rates)
    assert -1.0 <= low <= mean_omega(rates) <= high <= 1.0
    assert mean_omega(rates) == pytest.approx(sum(rate.omega for rate in rates) / len(rates))


def test_a_mean_over_many_is_better_known_than_one() -> None:
    rate = WinRate(wins=50, losses=10, ties=90)
    low, high = mean_interval([rate] * 11)
    assert high - low < (rate.interval[1] - rate.interval[0]) / 3
