"""What becomes of an answer whose copy was read; ``test_keeping_engine.py`` has a real engine."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import keep_reports
import pytest

from aligner.errors import ConfigError, ContractMismatch, DataError
from aligner.generation import Sampling
from aligner.keeping import KEEP_TAG, KeepCalibration
from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner_serve.config.aligner import KeepConfig
from aligner_serve.engines import Read
from aligner_serve.keeping import Looked, calibration_of, is_plainly_greedy, look
from aligner_serve.pieces import Failed

MANIFEST = Manifest(kind="export", name="e", prompt=PLAIN, prompt_fingerprint=PLAIN.fingerprint)


def calibration(
    threshold: float | None = -1.0, *, export_hash: str = MANIFEST.content_hash
) -> KeepCalibration:
    found = keep_reports.calibration(MANIFEST, threshold=threshold)
    return found.model_copy(update={"export_hash": export_hash})


def looked_at(*ranked: tuple[float, int], greedy: bool = True) -> Looked:
    async def read() -> Read:
        return Read(32, tuple(score for score, _ in ranked), tuple(rank for _, rank in ranked))

    found = asyncio.run(look(read(), calibration=calibration(), greedy=greedy))
    assert isinstance(found, Looked)
    return found


def test_a_copy_without_doubt_leaves_nothing_to_decode() -> None:
    looked = looked_at((-0.1, 1), (-1.0, 2), (-0.2, 1))
    assert looked.unchanged
    savings = looked.savings
    assert (savings.kept, savings.keep_score, savings.trusted_tokens) == (True, -1.0, 0)
    assert savings.cached_tokens == 32
    assert savings.first_token_ms == savings.keep_ms > 0


def test_decoding_begins_at_the_first_token_that_greedy_decoding_would_not_write() -> None:
    looked = looked_at((-0.1, 1), (-0.1, 1), (-4.0, 2), (-0.1, 1))
    assert not looked.unchanged
    assert (looked.savings.kept, looked.savings.trusted_tokens) == (False, 2)


def test_what_is_decoded_by_chance_begins_at_its_beginning() -> None:
    looked = looked_at((-0.1, 1), (-4.0, 2), greedy=False)
    assert (looked.unchanged, looked.savings.trusted_tokens) == (False, 0)


def test_a_copy_that_greedy_decoding_would_write_to_its_end_need_not_be_decoded() -> None:
    doubtful = ((-0.1, 1), (-4.0, 1))
    looked = looked_at(*doubtful)
    assert (looked.unchanged, looked.savings.kept, looked.savings.trusted_tokens) == (
        True,
        False,
        2,
    )
    assert not looked_at(*doubtful, greedy=False).unchanged


def test_an_engine_that_fails_to_read_has_failed_the_correction() -> None:
    async def read() -> Failed:
        return Failed("timeout")

    found = asyncio.run(look(read(), calibration=calibration(), greedy=True))
    assert found == Failed("timeout")


@pytest.mark.parametrize(
    ("changed", "greedy"),
    [
        ({}, True),
        ({"top_p": 0.5, "repetition_penalty": 1.0}, True),
        ({"temperature": 0.7}, False),
        ({"frequency_penalty": 0.1}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"stop": ["."]}, False),
    ],
)
def test_only_plain_greedy_decoding_can_be_begun_in_the_middle(
    changed: dict[str, object], greedy: bool
) -> None:
    assert is_plainly_greedy(Sampling.model_validate(changed)) is greedy


def found_in(tags: Mapping[str, str]) -> KeepCalibration:
    return calibration_of(KeepConfig(), MANIFEST, tags=tags, where="models:/fixer/3")


def test_a_version_carries_the_calibration_that_it_is_served_with() -> None:
    told = calibration()
    assert found_in({KEEP_TAG: told.to_tag()}) == told


@pytest.mark.parametrize(
    ("tags", "error", "says"),
    [
        ({}, ConfigError, "carries no calibration"),
        ({KEEP_TAG: "{"}, DataError, "can be read"),
        ({KEEP_TAG: calibration(None).to_tag()}, DataError, "found no threshold"),
        ({KEEP_TAG: calibration(export_hash="b" * 64).to_tag()}, ContractMismatch, "bbbbbbbbbbbb"),
    ],
)
def test_keep_is_refused_for_a_version_without_a_calibration_of_its_own(
    tags: dict[str, str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as refused:
        found_in(tags)
    assert "models:/fixer/3" in str(refused.value)


def report(uri: str, keep: KeepCalibration) -> KeepConfig:
    """Settings that name a report with that calibration."""
    return KeepConfig(calibration=keep_reports.write_report(uri, keep))


def test_a_report_may_have_the_calibration_instead(tmp_path: Path) -> None:
    settings = report(str(tmp_path / "report"), calibration())
    other = {KEEP_TAG: calibration(-2.0).to_tag()}
    assert calibration_of(settings, MANIFEST, tags=other, where="e") == calibration()


def test_a_report_on_another_export_is_refused(tmp_path: Path) -> None:
    settings = report(str(tmp_path / "report"), calibration(export_hash="b" * 64))
    with pytest.raises(ContractMismatch, match=r"report.*bbbbbbbbbbbb"):
        calibration_of(settings, MANIFEST, tags={}, where="e")
