import numpy as np
import pyarrow as pa
import pytest
from corpora import corpus_of, counting

from aligner.tokens import Example
from aligner_jobs.train.corpus import gather, local_corpus
from aligner_jobs.train.encoding import block

SHORT, LONG = Example([1, 2], [3]), Example([4], [5, 6, 7])


@pytest.mark.parametrize("rows", [0, 5])
def test_a_corpus_knows_its_rows(rows: int) -> None:
    corpus = counting(*[(2, 3)] * rows)
    assert len(corpus) == len(corpus.lengths) == rows
    assert corpus.row_lengths.tolist() == [5] * rows
    assert corpus.target_tokens(np.arange(rows)) == 3 * rows


def test_tokens_are_read_from_whichever_block_they_lie_in() -> None:
    corpus = counting(*[(1, n) for n in range(1, 8)])
    found = corpus.read(np.array([6, 0, 3, 6]))
    assert [ids.tolist() for ids in found] == [
        list(range(700, 708)), [100, 101], list(range(400, 405)), list(range(700, 708)),
    ]  # fmt: skip


def test_rows_that_are_set_aside_are_counted_and_take_no_place() -> None:
    rows = [("0" * 16, "too_long", [LONG]), ("f" * 16, "keep", [SHORT]), ("1" * 16, "x", [LONG])]
    corpus, verdicts = local_corpus([block(rows), block([])])
    assert verdicts == {"too_long": 1, "keep": 1, "x": 1}
    assert corpus.keys.tolist() == [2**64 - 1]
    assert corpus.read(np.array([0]))[0].tolist() == [1, 2, 3]


def test_a_row_of_two_documents_is_counted_whole() -> None:
    corpus = corpus_of([[SHORT, LONG], [LONG, LONG]])
    assert corpus.row_lengths.tolist() == [7, 8]
    assert corpus.documents_of(np.array([1, 0])).tolist() == [2, 3, 0, 1]
    assert corpus.target_tokens(np.array([0])) == 4
    assert [ids.tolist() for ids in corpus.read(np.array([0, 1]))] == [[1, 2, 3], [4, 5, 6, 7]]


def test_only_some_blocks_are_held_on_to() -> None:
    tables = [block([(f"{number:016x}", "keep", [SHORT])]) for number in range(200)]
    corpus, _ = gather([(table, table) for table in tables])
    for number in range(200):
        corpus.read(np.array([number]))
    assert len(corpus._read) == 64
    assert all(isinstance(table, pa.Table) for table in corpus.tables)
