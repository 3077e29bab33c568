from aligner_serve.comparisons import line
from aligner_serve.routing import Comparison


def test_a_disagreement_is_told_by_its_versions_and_without_a_text() -> None:
    told = line(Comparison("fixer", "different", "models:/fixer/1", "models:/fixer/2", 0.75))
    assert told == {
        "event": "shadow",
        "aligner": "fixer",
        "verdict": "different",
        "champion": "models:/fixer/1",
        "challenger": "models:/fixer/2",
        "similarity": 0.75,
        "reason": None,
    }


def test_corrections_without_a_common_word_are_not_taken_for_ones_that_were_not_compared() -> None:
    assert line(Comparison("fixer", "different", "1", "2", 0.0))["similarity"] == 0.0
