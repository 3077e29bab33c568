"""A version's examination, over correctors that say what they are told to."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from aligner.errors import DataError, GateRefused
from aligner.records import Question, Triple, Turn, to_columns
from aligner_serve import probe
from aligner_serve.config.release import ProbeConfig
from aligner_serve.pieces import CUT_SHORT, UNAVAILABLE, Delta, Failed, Finished, Piece

SECRET = "nightingale"
ROWS = [
    Triple("Is it one?", f"It is {SECRET}.", "It is one.", history=(Turn("user", "Hm."),)),
    Triple("Is it two?", f"It is {SECRET}.", "It is two."),
    Triple("Is it three?", f"It is {SECRET}.", "It is three."),
    Triple("Is it four?", f"It is {SECRET}.", "It is four."),
]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden.jsonl"
    path.write_text("\n".join(json.dumps(to_columns(row)) for row in ROWS) + "\n")
    return path


class Version:
    """Knows the corrections of some questions; of others it gives something else."""

    def __init__(self, *known: Triple, other: tuple[Piece, ...] = (), takes_s: float = 0) -> None:
        self.known = {row.question: row.correction for row in known}
        self.other = other or (Delta(f"No, {SECRET}."), Finished())
        self.takes_s = takes_s
        self.seen: list[tuple[Turn, ...]] = []

    async def correct(self, question: Question, answer: str) -> AsyncGenerator[Piece]:
        self.seen.append(question.history)
        await asyncio.sleep(self.takes_s)
        if question.question in self.known:
            yield Delta(self.known[question.question])
            yield Finished()
            return
        for piece in self.other:
            yield piece


def examine(version: Version, config: ProbeConfig) -> None:
    asked = probe.load(config)
    # As it reaches a replica.
    asked = probe.Probe.model_validate(asked.model_dump(mode="json"))
    asyncio.run(probe.examine(version.correct, asked, version="models:/fixer/2"))


def refused(version: Version, config: ProbeConfig) -> str:
    with pytest.raises(GateRefused) as error:
        examine(version, config)
    text = str(error.value)
    assert "models:/fixer/2" in text and "\n" not in text and text.endswith(".")
    assert SECRET not in text
    return text


def test_a_version_that_knows_every_pair_passes(golden: Path) -> None:
    version = Version(*ROWS)
    examine(version, ProbeConfig(pairs=str(golden)))
    assert (Turn("user", "Hm."),) in version.seen


def test_a_version_that_knows_too_few_is_refused_without_a_word_of_theirs(golden: Path) -> None:
    told = refused(Version(*ROWS[:2]), ProbeConfig(pairs=str(golden)))
    assert "2 of 4" in told and "golden.jsonl" in told and "pair 3: similarity" in told


def test_the_limits_say_how_many_are_enough(golden: Path) -> None:
    examine(Version(*ROWS[:2]), ProbeConfig(pairs=str(golden), min_share=0.5))
    assert "1 of 4" in refused(Version(ROWS[0]), ProbeConfig(pairs=str(golden), min_share=0.5))


def test_the_limits_say_how_like_is_like_enough(golden: Path) -> None:
    near = Version(other=(Delta("It is five."), Finished()))
    examine(near, ProbeConfig(pairs=str(golden), min_similarity=0.7))
    refused(near, ProbeConfig(pairs=str(golden), min_similarity=0.8))


@pytest.mark.parametrize("end", [(Failed(CUT_SHORT),), (Delta("It"), Failed(UNAVAILABLE)), ()])
def test_a_pair_without_a_correction_does_not_pass(golden: Path, end: tuple[Piece, ...]) -> None:
    class Ends(Version):
        async def correct(self, question: Question, answer: str) -> AsyncGenerator[Piece]:
            for piece in end:
                yield piece

    assert "0 of 4" in refused(Ends(), ProbeConfig(pairs=str(golden)))


def test_a_version_that_takes_too_long_is_refused(golden: Path) -> None:
    told = refused(Version(*ROWS, takes_s=60), ProbeConfig(pairs=str(golden), timeout_s=0.1))
    assert "probe.timeout_s" in told


def test_without_pairs_an_engine_must_only_work() -> None:
    examine(Version(), ProbeConfig())
    examine(Version(other=(Delta("It"), Failed(CUT_SHORT))), ProbeConfig())
    assert UNAVAILABLE in refused(Version(other=(Failed(UNAVAILABLE),)), ProbeConfig())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["holds 0 rows"]),
        ("{", ["golden.jsonl:1", "not JSON"]),
        ("[1]", ["golden.jsonl:1", "'question' is missing"]),
        (
            '{"question": "a", "answer": "b", "correction": "c"}\n\n{"question": "a"}',
            ["golden.jsonl:3", "'answer' is missing"],
        ),
        ('{"question": "a", "answer": "b", "correction": 1}', ["expected text"]),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        probe.load(ProbeConfig(pairs=str(path)))
    for word in words:
        assert word in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl cannot be read"):
        probe.load(ProbeConfig(pairs=str(tmp_path / "nowhere.jsonl")))
