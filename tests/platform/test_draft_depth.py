import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.copying import Guess
from aligner.draft_depth import Record, StepCost, Trust, depths

CHANCES = st.lists(st.floats(0.02, 1.0), max_size=16).map(
    lambda nexts: [_product(nexts[: n + 1]) for n in range(len(nexts))]
)
SURE = [0.99**n for n in range(1, 17)]
UNSURE = [0.3**n for n in range(1, 4)]


def _product(values: list[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return product


def cost(fixed: float, row: float, draft: float) -> StepCost:
    known = StepCost()
    known.parts_ms = (fixed, row, draft)
    return known


def per_ms(chances: list[list[float]], chosen: list[int], known: StepCost) -> float:
    fixed, row, draft = known.parts_ms
    came = len(chances) + sum(sum(one[:n]) for one, n in zip(chances, chosen, strict=True))
    return came / (fixed + row * len(chances) + draft * sum(chosen))


def test_an_idle_engine_drafts_deep_and_a_loaded_one_what_is_all_but_sure() -> None:
    known = cost(10.0, 1.0, 0.9)
    alone = depths([SURE], known, budget=999)
    assert alone == [16]
    rows = [SURE if number % 2 else UNSURE for number in range(64)]
    loaded = depths(rows, known, budget=9999)
    assert set(loaded[::2]) == {0} and all(loaded[1::2])
    assert depths([UNSURE], cost(100.0, 1.0, 0.5), budget=999) == [3]


def test_where_a_draft_costs_as_much_as_a_step_nothing_is_drafted() -> None:
    assert depths([SURE, UNSURE], cost(0.0, 1.0, 1.0), budget=999) == [0, 0]


@given(st.lists(CHANCES, max_size=9), st.integers(-5, 60), st.floats(0.01, 100))
def test_no_more_is_drafted_than_may_be_and_it_never_costs_speed(
    chances: list[list[float]], budget: int, fixed: float
) -> None:
    known = cost(fixed, 0.5, 1.0)
    chosen = depths(chances, known, budget=budget)
    assert len(chosen) == len(chances) and sum(chosen) <= max(0, budget)
    assert all(0 <= n <= len(one) for n, one in zip(chosen, chances, strict=True))
    if chances:
        none = per_ms(chances, [0] * len(chances), known)
        assert per_ms(chances, chosen, known) >= none * (1 - 1e-9)


def test_a_request_whose_guesses_fail_is_no_longer_trusted_and_one_that_mends_is_again() -> None:
    record = Record(Trust())
    guess = Guess([5, 6, 7, 8], "answer", 3)
    first = record.chances(guess)[0]
    for _ in range(12):
        record.learn(guess, [9])
    failing = record.chances(guess)[0]
    assert failing < first / 2
    assert depths([record.chances(guess)], cost(2.0, 1.0, 1.0), budget=99) == [0]
    for _ in range(40):
        # Nothing was drafted, and still it is seen that it would have come true.
        record.learn(guess, [5])
    assert record.chances(guess)[0] > first


def test_what_one_request_shows_is_known_of_the_next() -> None:
    trust = Trust()
    guess = Guess([5], "elsewhere", 2)
    before = Record(trust).chances(guess)
    for _ in range(400):
        Record(trust).learn(guess, [5])
    assert Record(trust).chances(guess) > before


@pytest.mark.parametrize("parts", [(7.5, 0.9, 0.35), (30.0, 0.01, 0.02), (1.0, 5.0, 4.0)])
def test_the_cost_of_a_step_is_learnt_from_the_steps(parts: tuple[float, float, float]) -> None:
    known = StepCost()
    fixed, row, draft = parts
    for number in range(600):
        rows, drafted = 1 + number * 7 % 32, number * 5 % 64
        took = fixed + row * rows + draft * drafted
        # One step in twenty is held up by something else.
        known.learn(rows=rows, drafted=drafted, took_ms=took * (30 if number % 20 == 9 else 1))
    learnt = known.parts_ms
    expected, found = (one[0] + one[1] * 32 + one[2] * 32 for one in (parts, learnt))
    assert found == pytest.approx(expected, rel=0.35)
    assert learnt[2] / found == pytest.approx(draft / expected, rel=0.5, abs=0.003)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 512), st.floats(0.0, 1e5))))
def test_whatever_steps_take_their_cost_stays_one(steps: list[tuple[int, int, float]]) -> None:
    known = StepCost()
    for rows, drafted, took_ms in steps:
        known.learn(rows=rows, drafted=drafted, took_ms=took_ms)
        fixed, row, draft = known.parts_ms
        assert fixed > 0 and row >= 0 and draft > 0
    assert all(0 <= n <= 16 for n in depths([SURE, UNSURE], known, budget=99))
