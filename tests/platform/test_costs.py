"""What correcting costs: the formula against figures worked out by hand, and its own sense."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.costs import (
    EstimatedRates,
    MeasuredRates,
    Shortcuts,
    Traffic,
    Work,
    asking,
    bill,
    capacity,
    correcting,
    tokens_per_step,
    waiting_s,
    yielded,
)

RATES = MeasuredRates(
    prefill_tokens_per_s=1000,
    decode_tokens_per_s=100,
    devices=2,
    usd_per_device_hour=3.6,
    measured_on="paper",
)
TRAFFIC = Traffic(question_tokens=50, answer_tokens=99, marks_tokens=1, trusted_share=0.5)
ALL = Shortcuts(draft_tokens=4, step_cost=1.0, ahead_extra_share=0.1, ahead_tail_tokens=10)
PLAIN = ALL.ladder()["plain"]
SHARES = st.floats(0, 1)


def test_an_answer_is_read_once_and_written_token_by_token() -> None:
    assert asking(TRAFFIC) == Work(50, 99, 99)
    assert asking(TRAFFIC).seconds(RATES) == pytest.approx(0.05 + 0.99)


def test_without_shortcuts_every_correction_is_written_whole() -> None:
    for kept, edit in itertools.product((0, 0.5, 1), (0, 0.3, 1)):
        assert correcting(TRAFFIC, PLAIN, kept_share=kept, edit_ratio=edit) == Work(150, 100, 100)


def test_what_is_kept_is_read_twice_and_never_written() -> None:
    keep = ALL.ladder()["keep"]
    assert correcting(TRAFFIC, keep, kept_share=1, edit_ratio=0.3) == Work(250, 0, 0)
    # Half is kept, and half of the others is trusted.
    assert correcting(TRAFFIC, keep, kept_share=0.5, edit_ratio=0.3) == Work(250, 25, 25)


def test_drafts_make_steps_fewer_and_tokens_as_many() -> None:
    drafts = PLAIN.model_copy(update={"copy_speculation": True})
    copied = correcting(TRAFFIC, drafts, kept_share=1, edit_ratio=0.3)
    assert (copied.written_tokens, copied.steps) == (100, 20)
    rewritten = correcting(TRAFFIC, drafts, kept_share=0, edit_ratio=1)
    assert rewritten.steps == 100


def test_edits_stand_closer_where_a_part_is_trusted() -> None:
    both = ALL.ladder()["keep, drafts"]
    found = correcting(TRAFFIC, both, kept_share=0, edit_ratio=0.1)
    assert found.steps == pytest.approx(50 / tokens_per_step(0.2, 4))


def test_reading_ahead_reads_a_little_more_and_leaves_little_to_wait_for() -> None:
    ahead = PLAIN.model_copy(update={"prefill_ahead": True})
    assert correcting(TRAFFIC, ahead, kept_share=0, edit_ratio=0).read_tokens == pytest.approx(165)
    assert waiting_s(TRAFFIC, PLAIN, RATES) == pytest.approx(0.15)
    assert waiting_s(TRAFFIC, ahead, RATES) == pytest.approx(0.01)
    assert waiting_s(TRAFFIC, ALL, RATES) == pytest.approx(0.11)


@pytest.mark.parametrize(
    ("edit_ratio", "simulated"), [(0.25, 4.67), (0.23, 4.11), (0.41, 2.01), (0.81, 1.24)]
)
def test_tokens_a_step_are_near_those_of_real_corrections(
    edit_ratio: float, simulated: float
) -> None:
    """Prompt lookup of depth 16 on real triples of that edit ratio; see ``shared_data``'s notes."""
    assert tokens_per_step(edit_ratio, 16) == pytest.approx(simulated, rel=0.25)


def test_a_step_that_checks_drafts_costs_more_and_is_not_taken_where_it_does_not_pay() -> None:
    dear = ALL.model_copy(update={"step_cost": 2.0})
    assert yielded(0, dear) == 2.5
    assert yielded(0.9, dear) == 1


def test_a_bill_is_for_a_thousand_answers_and_counts_every_device() -> None:
    found = bill(Work(1000, 100, 50), RATES)
    assert (found.read_tokens, found.written_tokens) == (1_000_000, 100_000)
    assert (found.replica_s, found.device_s) == (1500, 3000)
    assert found.usd == pytest.approx(3.0)


def test_capacity_is_whole_replicas_with_time_to_spare() -> None:
    work = Work(1000, 100, 50)
    found = capacity(work, RATES, requests_per_s=10, utilisation=0.7)
    assert (found.replicas, found.devices) == (22, 44)
    assert found.usd_per_hour == pytest.approx(44 * 3.6)
    assert capacity(work, RATES, requests_per_s=0.001, utilisation=0.7).replicas == 1


def test_estimated_rates_are_bound_by_memory_until_enough_is_in_flight() -> None:
    one = EstimatedRates(
        kind="estimated",
        parameters=1e9,
        flops=4e12,
        bytes_per_s=4e9,
        in_flight=1,
        utilisation=0.5,
        usd_per_device_hour=1,
    )
    assert one.prefill_tokens_per_s == 1000
    assert one.decode_tokens_per_s == 1
    assert one.model_copy(update={"in_flight": 500}).decode_tokens_per_s == 500
    assert one.model_copy(update={"in_flight": 5000}).decode_tokens_per_s == 1000
    assert "not measured" in one.measured_on


def test_the_ladder_goes_from_nothing_to_what_is_on() -> None:
    assert list(ALL.ladder()) == [
        "plain", "keep", "keep, drafts", "keep, drafts, ahead",
    ]  # fmt: skip
    assert list(ALL.ladder().values())[-1] == ALL
    some = ALL.model_copy(update={"keep": False, "prefill_ahead": False})
    assert list(some.ladder()) == ["plain", "drafts"]
    assert list(PLAIN.ladder()) == ["plain"]


@given(SHARES, SHARES, SHARES, st.integers(1, 64))
def test_more_kept_and_less_edited_never_costs_more(
    kept: float, edit: float, other: float, draft_tokens: int
) -> None:
    shortcuts = ALL.model_copy(update={"draft_tokens": draft_tokens})
    few, many = sorted((kept, other))
    light, heavy = sorted((edit, other))

    def steps(kept_share: float, edit_ratio: float) -> float:
        work = correcting(TRAFFIC, shortcuts, kept_share=kept_share, edit_ratio=edit_ratio)
        return work.steps

    assert steps(many, edit) <= steps(few, edit) + 1e-9
    assert steps(kept, light) <= steps(kept, heavy) + 1e-9
    assert 1 <= tokens_per_step(edit, draft_tokens) <= draft_tokens + 1 + 1e-9
