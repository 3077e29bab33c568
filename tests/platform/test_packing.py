import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.packing import PACK_SCHEMA, Document, Pack, first_fit, pack, read_packs, to_table
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner.tokens import IGNORED, Example, encode_example

GOLDEN = Path(__file__).parents[1] / "golden/pack.json"

IDS = st.lists(st.integers(0, 99), max_size=20)
EXAMPLES = st.builds(Example, prompt_ids=IDS, target_ids=IDS.map(lambda ids: [*ids, 2]))
DOCUMENTS = st.lists(EXAMPLES, max_size=60).map(
    lambda examples: [Document(f"row{n}", one) for n, one in enumerate(examples)]
)
BUDGET = 30


class Codes:
    """A tokenizer of code points."""

    bos_token_id = 1
    eos_token_id = 2

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def packed(documents: list[Document]) -> list[Pack]:
    return pack(documents, max_tokens=BUDGET, window=7).packs


@given(documents=DOCUMENTS)
def test_every_row_is_in_one_pack_or_set_aside_and_none_is_cut(documents: list[Document]) -> None:
    window = pack(documents, max_tokens=BUDGET, window=0)
    back = {
        row_id: example
        for one in window.packs
        for row_id, example in zip(one.row_ids, one.examples(), strict=True)
    }
    assert sum(len(one.row_ids) for one in window.packs) == len(back)
    fit = {
        one.row_id: one.example
        for one in documents
        if one.example.prompt_ids and len(one.example) <= BUDGET
    }
    assert back == fit
    long = sum(len(one.example) > BUDGET for one in documents)
    assert window.set_aside["too_long"] == long
    assert window.set_aside.total() == len(documents) - len(fit)


@given(documents=DOCUMENTS)
def test_no_pack_is_larger_than_the_budget_and_no_two_would_fit_into_one_half(
    documents: list[Document],
) -> None:
    sizes = sorted(len(one.input_ids_T) for one in packed(documents))
    assert all(0 < size <= BUDGET for size in sizes)
    # First fit opens a pack only for what the ones before have no room for.
    assert len(sizes) < 2 or sizes[0] + sizes[1] > BUDGET


@given(documents=DOCUMENTS)
def test_rows_keep_their_order_within_packs_and_packs_among_themselves(
    documents: list[Document],
) -> None:
    place = {one.row_id: number for number, one in enumerate(documents)}
    places = [[place[row_id] for row_id in one.row_ids] for one in packed(documents)]
    assert places == sorted(sorted(group) for group in places)


@settings(deadline=None)  # The first file takes a second.
@given(documents=DOCUMENTS)
def test_packs_come_back_from_parquet_as_they_were(documents: list[Document]) -> None:
    packs = packed(documents)
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(packs), sink)
    table = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert table.schema == PACK_SCHEMA
    for before, after in zip(packs, read_packs(table), strict=True):
        assert (after.window, after.row_ids) == (before.window, before.row_ids)
        assert after.examples() == before.examples()


@given(documents=DOCUMENTS)
def test_labels_and_positions_are_those_of_each_row_alone(documents: list[Document]) -> None:
    for one in packed(documents):
        examples = one.examples()
        assert one.labels_T.tolist() == [label for e in examples for label in e.labels]
        assert one.position_ids_T.tolist() == [p for e in examples for p in range(len(e))]
        assert np.diff(one.starts).tolist() == [len(e) for e in examples]
        # Shifted by one, no token is learned from the document before it.
        assert all(one.labels_T[start] == IGNORED for start in one.starts[:-1])


@given(lengths=st.lists(st.integers(1, BUDGET), max_size=80))
def test_first_fit_is_near_the_fewest_packs_possible(lengths: list[int]) -> None:
    groups = first_fit(lengths, max_tokens=BUDGET)
    assert Counter(place for group in groups for place in group) == Counter(range(len(lengths)))
    fewest = -(-sum(lengths) // BUDGET)
    half = sum(length > BUDGET / 2 for length in lengths)
    assert len(groups) <= max(fewest * 2, half)


def test_the_packs_of_some_rows_are_what_they_were() -> None:
    rows = [Triple(f"q{n}", "a" * n, "c" * (n % 4)) for n in range(0, 24, 3)]
    documents = [
        Document(row.row_id, encode_example(row, template=PLAIN, tokenizer=Codes())) for row in rows
    ]
    packs = pack(documents, max_tokens=128, window=0).packs
    found = {
        "packs": to_table(packs).to_pylist(),
        "labels": [one.labels_T.tolist() for one in packs],
    }
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == found
