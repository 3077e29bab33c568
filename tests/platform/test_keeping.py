"""The threshold of KEEP: who is kept, how sure that is, and how it travels."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.errors import ContractMismatch, DataError
from aligner.keeping import CopyScores, KeepCalibration, calibrate, rows_needed, upper_bound

SCORES = st.floats(min_value=-30.0, max_value=0.0)


def found(
    good: list[float], flawed: list[float], *, error: float = 0.005, confidence: float = 0.95
) -> KeepCalibration:
    return calibrate(
        good,
        flawed,
        export_hash="e" * 64,
        prompt_fingerprint="f" * 12,
        dtype="float32",
        wanted_error=error,
        confidence=confidence,
    )


def test_one_weak_token_decides_the_score() -> None:
    assert CopyScores((-0.01, -3.0, -0.2), (1, 2, 1)).score == -3.0


def test_an_impossible_token_has_a_score_that_json_can_hold() -> None:
    assert math.isfinite(CopyScores((-math.inf,), (9,)).score)


@pytest.mark.parametrize(
    ("ranks", "trusted"), [((1, 1, 2, 1), 2), ((2, 1, 1, 1), 0), ((1, 1, 1, 1), 4)]
)
def test_tokens_are_trusted_up_to_the_first_that_greedy_decoding_would_not_write(
    ranks: tuple[int, ...], trusted: int
) -> None:
    assert CopyScores((-0.1,) * 4, ranks).trusted == trusted


def test_the_rule_of_three_says_how_many_flawed_answers_are_needed() -> None:
    assert rows_needed(0.005, confidence=0.95) == 598


@pytest.mark.parametrize(
    ("count", "total", "bound"),
    # scipy.stats.beta.ppf(0.95, count + 1, total - count)
    [(0, 598, 0.004997), (1, 100, 0.046560), (5, 20, 0.455582), (3, 3, 1.0)],
)
def test_the_bound_is_that_of_clopper_and_pearson(count: int, total: int, bound: float) -> None:
    assert upper_bound(count, total, confidence=0.95) == pytest.approx(bound, abs=2e-6)


def test_the_threshold_is_the_lowest_good_score_above_the_flawed_ones() -> None:
    calibration = found([-5.0, -0.3, -0.2, -0.1], [-1.0] * 598)
    assert (calibration.threshold, calibration.good_kept, calibration.flawed_kept) == (-0.3, 3, 0)
    assert calibration.error_bound <= 0.005


def test_more_flawed_answers_allow_some_of_them_to_be_kept() -> None:
    flawed = [-0.25, *[-1.0] * 1199]
    calibration = found([-0.5, -0.3], flawed)
    assert (calibration.threshold, calibration.flawed_kept) == (-0.5, 1)


def test_too_few_flawed_answers_show_nothing_and_that_is_said() -> None:
    calibration = found([-0.1] * 500, [-9.0] * 597)
    assert calibration.threshold is None
    assert not calibration.keeps(CopyScores((0.0,), (1,)))
    assert "597 flawed answers cannot show an error of 0.50%" in calibration.sentence
    assert "598 are needed" in calibration.sentence
    with pytest.raises(DataError, match=r"models:/a/1: .*598 are needed"):
        calibration.usable(where="models:/a/1")


def test_without_a_good_answer_above_the_flawed_ones_there_is_no_threshold() -> None:
    assert found([-2.0], [-1.0] * 600).threshold is None


@given(
    good=st.lists(SCORES, max_size=60),
    flawed=st.lists(SCORES, max_size=300),
    error=st.sampled_from([0.01, 0.05, 0.2]),
)
@settings(deadline=None)
def test_the_bound_never_exceeds_the_wanted_error(
    good: list[float], flawed: list[float], error: float
) -> None:
    calibration = found(good, flawed, error=error)
    kept = [score for score in flawed if calibration.keeps(CopyScores((score,), (1,)))]
    assert calibration.flawed_kept == len(kept)
    if calibration.threshold is not None:
        assert calibration.error_bound <= error
        assert calibration.good_kept >= 1
        assert any(
            point.threshold == pytest.approx(calibration.threshold, rel=1e-3)
            for point in calibration.curve
        )
    stricter = [(point.kept_flawed, point.kept_good) for point in calibration.curve]
    assert stricter == sorted(stricter)


def test_the_true_error_exceeds_the_wanted_one_as_seldom_as_was_promised() -> None:
    draw = random.Random(0)
    exceeded = 0
    for _ in range(300):
        # The share of flawed answers that score at least -x is x.
        calibration = found(
            [-draw.random() for _ in range(200)],
            [-draw.random() for _ in range(300)],
            error=0.05,
        )
        exceeded += calibration.threshold is not None and -calibration.threshold > 0.05
    assert exceeded / 300 <= 0.05


def test_a_calibration_travels_as_a_short_tag() -> None:
    draw = random.Random(1)
    calibration = found(
        [-draw.random() for _ in range(2000)], [-1 - draw.expovariate(1) for _ in range(2000)]
    )
    tag = calibration.to_tag()
    assert KeepCalibration.from_tag(tag, where="models:/a/1") == calibration
    # MLflow's databases of before version 2.10 cut a version's tag off at 5,000 characters.
    assert len(tag) < 4500


@pytest.mark.parametrize("tag", ["", "{", '{"threshold": -1.0}'])
def test_a_tag_that_is_no_calibration_is_refused_by_name(tag: str) -> None:
    with pytest.raises(DataError, match=r"models:/a/1: holds no calibration of KEEP"):
        KeepCalibration.from_tag(tag, where="models:/a/1")


def test_a_calibration_of_another_export_is_refused() -> None:
    calibration = found([-0.1], [-9.0] * 600)
    same = {"export_hash": "e" * 64, "prompt_fingerprint": "f" * 12, "where": "models:/a/1"}
    assert calibration.require_export(**same) is calibration
    with pytest.raises(ContractMismatch, match="is of export eeeeeeeeeeee"):
        calibration.require_export(**{**same, "export_hash": "0" * 64})


def test_a_calibration_in_another_dtype_is_refused() -> None:
    calibration = found([-0.1], [-9.0] * 600)
    calibration.require_dtype("float32", where="models:/a/1")
    with pytest.raises(ContractMismatch, match=r"models:/a/1: .* was made with dtype float32"):
        calibration.require_dtype("bfloat16", where="models:/a/1")
