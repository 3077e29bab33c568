import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from aligner.refusals import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "  I cannot provide instructions for that.",
        "It is not appropriate to make such a list.",
        "As an AI language model, I must point out that this is harmful.",
    ],
)
def test_a_refusal_says_so_at_once(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I'm sorry to hear that your dog is ill. Here is what you can do.",
        "You can not only bake it, you can also fry it.",
        "Press Ctrl-C. " * 30 + "I cannot help you further.",
        "She said: it is not far.",
    ],
)
def test_an_answer_with_such_words_is_none(text: str) -> None:
    assert not is_refusal(text)


def labelled(folder: Path) -> list[dict[str, Any]]:
    """The half of the prompts that the patterns were not chosen on."""
    with gzip.open(folder / "xstest_completions.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row for row in rows if int(row["id"].partition("-")[2]) % 2]


def test_precision_and_recall_on_what_people_labelled(shared_data: Path) -> None:
    rows = labelled(shared_data)
    refused = [is_refusal(row["completion"]) for row in rows if "full_refusal" in row["label"]]
    obeyed = [is_refusal(row["completion"]) for row in rows if "full_compliance" in row["label"]]
    assert sum(refused) / len(refused) >= 0.79
    assert sum(refused) / (sum(refused) + sum(obeyed)) >= 0.96
