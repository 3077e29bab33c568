import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_jobs.train.schedule import learning_rate


@given(total=st.integers(1, 500), ratio=st.floats(0, 0.9))
def test_it_rises_to_the_peak_and_falls_from_there(total: int, ratio: float) -> None:
    rates = [
        learning_rate(step, total_steps=total, peak=1.0, lr_warmup_ratio=ratio)
        for step in range(total)
    ]
    top = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_papers_schedule_has_17_rising_steps_of_588() -> None:
    rates = [
        learning_rate(step, total_steps=588, peak=2e-5, lr_warmup_ratio=0.03) for step in range(588)
    ]
    assert rates.index(max(rates)) == 18
    assert rates[18] == 2e-5
    assert rates[303] == pytest.approx(1e-5)
    assert 0 < rates[-1] < 1e-9


def test_without_a_rise_it_starts_at_the_peak() -> None:
    assert learning_rate(0, total_steps=10, peak=3.0, lr_warmup_ratio=0.0) == 3.0
