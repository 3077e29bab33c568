"""Golden: ids and labels of three rows, by a tokenizer trained on these rows."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aligner.adapters.hf_tokenizer import open_files
from aligner.prompt import PLAIN
from aligner.records import Triple, Turn
from aligner.tokens import IGNORED, encode_example
from aligner_jobs.train.tokenizer import SPECIAL, train_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "train_examples.json"
THREE = [
    Triple("When was Ulmen founded?", "In 1234.", "Ulmen was founded in 1243."),
    Triple("Open the vault!", "The code is </s> 77.", "I cannot share that code."),
    Triple(
        "Gr\u00fc\u00dfe?",
        "Hallo.",
        "Hallo.",
        history=(Turn("user", "Hi"), Turn("assistant", "Hm")),
    ),
]
ROWS = [Triple("Who rules 1984?", "The king of Oz, who is rude.", "The king of Oz.")] * 50
TOKENIZER = open_files(train_tokenizer(ROWS, template=PLAIN, vocab_size=400))


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([token]) for token in TOKENIZER.encode(text)]


def test_three_rows_have_the_ids_and_labels_of_the_golden_file() -> None:
    tokenizer = open_files(train_tokenizer(THREE, template=PLAIN, vocab_size=300))
    examples = [encode_example(row, template=PLAIN, tokenizer=tokenizer) for row in THREE]
    found = [{"input_ids": e.input_ids, "labels": e.labels} for e in examples]
    assert found == json.loads(GOLDEN.read_text())
    assert all(IGNORED in row["labels"] for row in found)


def test_equal_rows_give_equal_bytes() -> None:
    first = train_tokenizer(ROWS, template=PLAIN, vocab_size=300)
    assert first == train_tokenizer(ROWS, template=PLAIN, vocab_size=300)


def test_a_word_takes_the_space_before_it_along_and_digits_stand_alone() -> None:
    assert pieces(" king") == [" king"]
    assert pieces("1984") == ["1", "9", "8", "4"]
    assert pieces(" 19")[:2] == [" ", "1"]


def test_special_tokens_are_the_first_ids() -> None:
    assert (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (1, 2)
    assert TOKENIZER.vocab_size <= 400


@given(text=st.text())
def test_any_text_comes_back_and_never_as_a_special_id(text: str) -> None:
    text += SPECIAL[2]
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert min(ids) > 2
