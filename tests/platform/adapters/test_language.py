import gzip
import json
from pathlib import Path

import pytest

from aligner.adapters.language import detect


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Die Hauptstadt liegt am großen Fluss, und viele Leute wohnen gern dort.", "de"),
        ("La capitale se trouve au bord du fleuve et beaucoup de gens y vivent.", "fr"),
        ("The capital lies on the great river, and many people like to live there.", "en"),
        ("首都は大きな川のほとりにあり、多くの人が住んでいます。", "ja"),
    ],
)
def test_sentences_tell_their_language(text: str, code: str) -> None:
    assert detect(text) == code


def test_english_dialogues_are_english(shared_data: Path) -> None:
    with gzip.open(shared_data / "hh_harmless_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["chosen"] for line, _ in zip(lines, range(300), strict=False)]
    long = [text for text in texts if len(text) >= 80]
    assert len(long) > 250
    assert all(detect(text) == "en" for text in long)
