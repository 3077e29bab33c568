"""Teachers and the judge in the config of build-dataset."""

from pathlib import Path
from typing import Any

import pytest

from aligner.config import load, validate
from aligner.errors import ConfigError
from aligner.teaching import Principles
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.teaching import AlignerTeacher, OpenAITeacher
from aligner_jobs.programs import shipped_config

ASKS: dict[str, Any] = {
    "out": "o",
    "base_url": "http://127.0.0.1:8100/v1",
    "sources": {"s": {"kind": "simworld"}},
    "upstreams": {"u": {"model": "amber"}},
}
FAR: dict[str, Any] = {"kind": "openai", "model": "teacher"}
NEAR: dict[str, Any] = {"kind": "simworld"}
PUPIL: dict[str, Any] = {"kind": "aligner", "model": "m@champion"}


def config(**changes: object) -> BuildDatasetConfig:
    return validate(BuildDatasetConfig, {**ASKS, **changes}, where="test.yaml")


def principles_of(made: BuildDatasetConfig) -> Principles:
    teacher = made.teachers["teacher"]
    assert isinstance(teacher, OpenAITeacher)
    return teacher.principles


def test_a_single_teacher_is_the_only_one_of_several() -> None:
    single, several = config(teacher=FAR), config(teachers={"teacher": FAR})
    assert single == several
    assert single.identity() == several.identity()
    again = BuildDatasetConfig.model_validate(single.model_dump(mode="json"))
    assert again == single


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"teacher": FAR, "teachers": {"a": NEAR}}, "either teacher or teachers"),
        ({"teachers": {"a": {**NEAR, "share": 0}}}, "share"),
        ({"teacher": FAR, "base_url": None}, "teacher.base_url"),
        ({"teacher": {**FAR, "principles": "nowhere.yaml"}}, "nowhere.yaml"),
        ({"teacher": {**FAR, "principles": {"helpful": ["x"]}}}, "harmless"),
        ({"teacher": NEAR, "judge": {"kind": "simworld"}}, "judge"),
        ({"teacher": {"kind": "aligner"}}, "either a registered model or an export"),
        ({"teacher": {**PUPIL, "keep": {"kind": "calibrate"}}}, "keep.kind"),
    ],
)
def test_a_mistake_names_its_place(changes: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert remedy in str(caught.value)


def test_principles_are_ours_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    shipped = load(Principles, shipped_config("jobs", "principles/default.yaml"))
    assert principles_of(config(teacher=FAR)) == shipped
    file = tmp_path / "mine.yaml"
    file.write_text("helpful: [Help.]\nharmless: [Hurt nobody.]\nhonest: [Be true.]\n")
    mine = config(teacher={**FAR, "principles": str(file)})
    assert principles_of(mine).helpful == ("Help.",)
    # The content counts, not the file: workers have none, and an edited file is another dataset.
    file.unlink()
    again = BuildDatasetConfig.model_validate(mine.model_dump(mode="json"))
    assert again.identity() == mine.identity() != config(teacher=FAR).identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": {**FAR, "critique": True}},
        {"teacher": {**FAR, "instruction": "Mend it."}},
        {"teachers": {"teacher": FAR, "other": NEAR}},
        {"teachers": {"other": FAR}},
        {"teacher": FAR, "judge": FAR},
        {"teacher": FAR, "pii": {}},
    ],
)
def test_who_corrects_and_by_what_decides_the_rows(changes: dict[str, Any]) -> None:
    assert config(**changes).identity() != config(teacher=FAR).identity()


@pytest.mark.parametrize("key", ["timeout_s", "max_attempts", "max_in_flight"])
def test_how_a_teacher_or_a_judge_is_reached_does_not(key: str) -> None:
    slow = {**FAR, key: 7}
    made = config(teacher=slow, judge=slow)
    assert made.identity() == config(teacher=FAR, judge=FAR).identity()


def test_an_aligner_teaches_by_its_name_in_the_registry() -> None:
    teacher = config(teacher={**PUPIL, "share": 2, "keep": {"kind": "stored"}}).teachers["teacher"]
    assert isinstance(teacher, AlignerTeacher)
    assert (teacher.model_name, teacher.model_version) == ("m", "@champion")
