from typing import Any

import pytest

from aligner.config import validate
from aligner.errors import ConfigError
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.quality import HeldoutQuestions
from aligner_jobs.config.sources import QacSource

HELD_OUT = {"kind": "heldout", "dataset": "s3://bucket/dataset"}


def config(**changes: Any) -> BuildDatasetConfig:
    raw = {"out": "o", "sources": {"s": {"kind": "qac", "path": "x.json"}}, **changes}
    return validate(BuildDatasetConfig, raw, where="test.yaml")


def test_near_duplicates_and_decontamination_are_off_unless_they_are_asked_for() -> None:
    assert config().near_duplicates is None
    assert config().decontamination is None
    chosen = config(near_duplicates={}).near_duplicates
    assert chosen is not None
    assert (chosen.threshold, chosen.shingle_words) == (0.8, 3)


def test_an_evaluation_set_is_a_source_of_any_kind_or_held_out_by_a_dataset() -> None:
    against = {
        "a": {"kind": "qac", "path": "exam.json"},
        "b": HELD_OUT,
    }
    chosen = config(decontamination={"against": against}).decontamination
    assert chosen is not None
    assert isinstance(chosen.against["a"], QacSource)
    assert isinstance(chosen.against["b"], HeldoutQuestions)
    assert chosen.ngram_words == 13


def test_both_decide_what_the_rows_are() -> None:
    against = {"a": {"kind": "qac", "path": "exam.json"}}
    made = [
        config(),
        config(near_duplicates={}),
        config(near_duplicates={"threshold": 0.9}),
        config(decontamination={"against": against}),
        config(decontamination={"against": against, "ngram_words": 8}),
    ]
    found = [one.identity() for one in made]
    assert all(one != other for one in found for other in found if one is not other)


@pytest.mark.parametrize(
    "changes",
    [
        {"near_duplicates": {"threshold": 1.0}},
        {"near_duplicates": {"threshold": 0.3}},
        {"near_duplicates": {"shingle_words": 0}},
        {"decontamination": {}},
        {"decontamination": {"against": {}}},
        {"decontamination": {"against": {"a": {"kind": "heldout", "path": "x"}}}},
        {
            "decontamination": {
                "against": {"a": {"kind": "heldout", "dataset": "x"}},
                "ngram_words": 5,
            }
        },
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"test\.yaml"):
        config(**changes)
