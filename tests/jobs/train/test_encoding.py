from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligner.adapters.hf_tokenizer import open_files
from aligner.packing import Document, pack, to_table
from aligner.prompt import PLAIN
from aligner.records import TRIPLE_SCHEMA, Triple, Turn, to_columns
from aligner.tokens import encode_example
from aligner_jobs.config.objective import CorrectionObjective, DpoObjective, Objective, SftObjective
from aligner_jobs.train.encoding import EncodeRows, UnpackRows, in_this_process
from aligner_jobs.train.shards import Piece, pieces
from aligner_jobs.train.tokenizer import train_tokenizer

ROWS = [
    Triple("Which one?", "It is that, fool.", "It is that.", history=(Turn("user", "Hm."),)),
    Triple("Which other?", "It is this.", "It is this."),
    Triple("Which?", " ".join(map(str, range(300))), "No."),
]
FILES = train_tokenizer(ROWS, template=PLAIN, vocab_size=300)
TOKENIZER = open_files(FILES)


def encoder(objective: Objective) -> EncodeRows:
    return EncodeRows(FILES, PLAIN, objective, max_tokens=400)


def texts(table: pa.Table) -> list[list[tuple[str, str]]]:
    """Prompt and target of each document of each row."""
    found = []
    for row in table.to_pylist():
        documents, begin = [], 0
        for length, prompt in zip(row["lengths"], row["prompt_lengths"], strict=True):
            ids = row["input_ids"][begin : begin + length]
            assert ids[-1] == TOKENIZER.eos_token_id
            documents.append((TOKENIZER.decode(ids[:prompt]), TOKENIZER.decode(ids[prompt:])))
            begin += length
        found.append(documents)
    return found


def test_an_aligner_is_given_question_and_answer() -> None:
    table = encoder(CorrectionObjective()).table(ROWS)
    assert table["verdict"].to_pylist() == ["keep", "keep", "too_long"]
    expected = [
        [(PLAIN.render(row.question, row.answer, row.history), row.correction)] for row in ROWS[:2]
    ]
    assert texts(table) == [*expected, []]


def test_an_upstream_is_given_the_question_alone() -> None:
    objective = SftObjective(kind="sft", question_prompt="<{question}>")
    table = encoder(objective).table(ROWS[:2])
    past = PLAIN.render_history(ROWS[0].history)
    assert texts(table) == [
        [(f"<{past}Which one?>", "It is that.")], [("<Which other?>", "It is this.")],
    ]  # fmt: skip


def test_preferences_have_a_chosen_and_a_rejected_document() -> None:
    objective = DpoObjective(kind="dpo", question_prompt="{question}:")
    table = encoder(objective).table(ROWS)
    assert table["verdict"].to_pylist() == ["keep", "identity", "too_long"]
    past = PLAIN.render_history(ROWS[0].history)
    assert texts(table)[0] == [
        (f"{past}Which one?:", "It is that."), (f"{past}Which one?:", "It is that, fool."),
    ]  # fmt: skip


@pytest.mark.parametrize("prompt", ["", "{question} {question}", "question"])
def test_a_prompt_holds_the_question_once(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"must contain \{question\} exactly once"):
        SftObjective(kind="sft", question_prompt=prompt)


def test_packs_give_back_the_rows_that_were_packed(tmp_path: Path) -> None:
    rows = [Triple(f"Which {n}?", f"It is {n}, fool.", f"It is {n}.") for n in range(40)]
    encoded = {row.row_id: encode_example(row, template=PLAIN, tokenizer=TOKENIZER) for row in rows}
    documents = [Document(row_id, example) for row_id, example in encoded.items()]
    packs = pack(documents, max_tokens=200, window=0).packs
    (tmp_path / "packed" / "train").mkdir(parents=True)
    pq.write_table(to_table(packs), tmp_path / "packed" / "train" / "part-00000.parquet")
    found = tables(UnpackRows(max_tokens=400), pieces(str(tmp_path), "packed/train"))
    assert {
        row["row_id"]: (row["input_ids"], row["prompt_lengths"])
        for table in found
        for row in table.to_pylist()
    } == {
        row_id: (example.input_ids, [len(example.prompt_ids)])
        for row_id, example in encoded.items()
    }


def test_rows_come_in_the_order_of_files_and_groups(tmp_path: Path) -> None:
    rows = [Triple(f"Which {n}?", "a", "b") for n in range(10)]
    (tmp_path / "train").mkdir()
    for name, some in (("part-00001", rows[6:]), ("part-00000", rows[:6])):
        table = pa.Table.from_pylist([to_columns(row) for row in some], schema=TRIPLE_SCHEMA)
        pq.write_table(table, tmp_path / "train" / f"{name}.parquet", row_group_size=4)
    found = pieces(str(tmp_path), "train")
    assert [piece.rows for piece in found] == [4, 2, 4]
    ids = [
        row_id
        for table in tables(encoder(CorrectionObjective()), found)
        for row_id in table["row_id"].to_pylist()
    ]
    assert ids == [row.row_id for row in rows]


def tables(work: Any, found: Sequence[Piece]) -> list[pa.Table]:
    made = in_this_process(work, found)
    assert all("input_ids" not in index.column_names for _, index in made)
    return [table for table, _ in made]
