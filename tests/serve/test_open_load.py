"""The load generator of the benches: what it draws, and what it counts as lost."""

import asyncio
from pathlib import Path

import open_load
import pytest
from fixed_engines import BLOCKED, CORRECTED, PASSED, RAW, FixedGateway
from open_load import Pair, Stretch, arrivals, pairs


def test_arrivals_follow_the_rate_and_their_seed() -> None:
    day = [Stretch(100, 2, 2), Stretch(100, 0, 20), Stretch(50, 0, 0)]
    drawn = list(arrivals(day, seed=1))
    assert drawn == sorted(drawn) == list(arrivals(day, seed=1))
    assert drawn != list(arrivals(day, seed=2))
    assert 150 < sum(at < 100 for at in drawn) < 250
    # A ramp has a quarter of its requests in its first half.
    early = sum(100 <= at < 150 for at in drawn) / sum(100 <= at < 200 for at in drawn)
    assert early == pytest.approx(0.25, abs=0.05)
    assert max(drawn) < 200


def test_pairs_have_real_lengths(shared_data: Path) -> None:
    found = pairs(shared_data)
    lengths = sorted(pair.answer_words for pair in found)
    assert len(found) > 3000
    assert lengths[len(lengths) // 10] * 5 < lengths[len(lengths) * 9 // 10]


def test_what_gets_no_correction_is_lost_and_says_why() -> None:
    with FixedGateway() as gateway:

        def load(model: str, *, path: str = "/v1") -> set[str | None]:
            mix, half = [Pair("Why?", "Because of it.")], [Stretch(0.5, 20, 20)]
            url = f"{gateway.url}{path}"
            asked = asyncio.run(open_load.load(url, model, mix, half, seed=3))
            assert len(asked) > 3
            assert all(one.first_s is not None for one in asked if one.trouble is None)
            return {one.trouble for one in asked}

        assert load(CORRECTED) == load(RAW) == {None}
        assert load(PASSED) == load(BLOCKED) == {"no correction"}
        assert load("nobody+fixer") == {"status 404"}
        assert load(CORRECTED, path="/nowhere") == {"status 404"}
