"""Tokenised rows of one split, held in blocks that lie in Ray's object store.

A worker keeps an index of a few bytes per row and fetches the tokens of the rows that it is about
to use: blocks are shared by the workers of a node, and what does not fit into memory Ray keeps on
disk. A row holds one document, or two (chosen and rejected) where preferences are learnt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

IntArray = npt.NDArray[np.int64]

BLOCK_SCHEMA: Final = pa.schema(
    [
        ("row_id", pa.string()),
        ("verdict", pa.string()),
        ("lengths", pa.list_(pa.int32())),
        ("prompt_lengths", pa.list_(pa.int32())),
        ("input_ids", pa.list_(pa.int32())),
    ]
)
"""A block's columns: a verdict other than "keep" is the reason why the row is set aside, and such a
row has no tokens. The documents of a row stand one after the other in ``input_ids``."""

_HELD_BLOCKS: Final = 64
"""Blocks that a worker holds on to: more than the rows that are shuffled together lie in."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """The rows that are trained on, in the order of the dataset."""

    lengths: IntArray
    """Tokens of each document."""
    prompt_lengths: IntArray
    """Tokens of each document without loss."""
    starts: IntArray
    """Where each document's tokens begin in its block."""
    blocks: IntArray
    """Which block each document lies in."""
    keys: npt.NDArray[np.uint64]
    """The first 64 bits of each row's id."""
    tables: tuple[Any, ...]
    """Blocks as Arrow tables, or Ray's references to them."""
    documents_per_row: int = 1
    _read: dict[int, npt.NDArray[np.int32]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.keys)

    @property
    def row_lengths(self) -> IntArray:
        """Tokens of each row, all its documents together."""
        if self.documents_per_row == 1:
            return self.lengths
        summed: IntArray = self.lengths.reshape(-1, self.documents_per_row).sum(axis=1)
        return summed

    def documents_of(self, rows: IntArray) -> IntArray:
        """The documents of ``rows``, row by row."""
        each = np.arange(self.documents_per_row)
        return (rows[:, None] * self.documents_per_row + each).reshape(-1)

    def tokens(self, rows: IntArray) -> int:
        """Tokens of ``rows``, padding not counted."""
        return int(self.row_lengths[rows].sum())

    def target_tokens(self, rows: IntArray) -> int:
        """Tokens with loss in ``rows``."""
        documents = self.documents_of(rows)
        return int((self.lengths[documents] - self.prompt_lengths[documents]).sum())

    def read(self, documents: IntArray) -> list[npt.NDArray[np.int32]]:
        """Ids of each of ``documents``."""
        self._fetch(np.unique(self.blocks[documents]))
        return [
            self._read[int(self.blocks[one])][self.starts[one] : self.starts[one] + length]
            for one, length in zip(documents, self.lengths[documents], strict=True)
        ]

    def _fetch(self, blocks: npt.NDArray[np.int64]) -> None:
        missing = [int(block) for block in blocks if int(block) not in self._read]
        if not missing:
            return
        tables = [self.tables[block] for block in missing]
        if not isinstance(tables[0], pa.Table):
            import ray

            tables = ray.get(tables)
        for block, table in zip(missing, tables, strict=True):
            self._read[block] = _flat(table, "input_ids")
        # What is held here cannot go to disk; the oldest were asked for the longest time ago.
        for block in list(self._read)[: max(0, len(self._read) - max(_HELD_BLOCKS, len(blocks)))]:
            if block not in blocks:
                del self._read[block]


def gather(
    tables: Sequence[tuple[Any, pa.Table]], *, documents_per_row: int = 1
) -> tuple[Corpus, dict[str, int]]:
    """A corpus of blocks, each given with its columns but the tokens; verdict to rows as well."""
    lengths, prompts, starts, blocks, keys = [], [], [], [], []
    verdicts: dict[str, int] = {}
    for number, (_, index) in enumerate(tables):
        for verdict, count in _counts(index["verdict"]).items():
            verdicts[verdict] = verdicts.get(verdict, 0) + count
        kept = index.filter(pa.compute.equal(index["verdict"], "keep"))
        block_lengths = _flat(kept, "lengths").astype(np.int64)
        lengths.append(block_lengths)
        prompts.append(_flat(kept, "prompt_lengths").astype(np.int64))
        # Rows that are set aside have no tokens, so the kept ones stand close together.
        starts.append(np.cumsum(block_lengths) - block_lengths)
        blocks.append(np.full(len(block_lengths), number, dtype=np.int64))
        keys += [int(row_id[:16], 16) for row_id in kept["row_id"].to_pylist()]
    corpus = Corpus(
        lengths=_joined(lengths),
        prompt_lengths=_joined(prompts),
        starts=_joined(starts),
        blocks=_joined(blocks),
        keys=np.array(keys, dtype=np.uint64),
        tables=tuple(table for table, _ in tables),
        documents_per_row=documents_per_row,
    )
    return corpus, verdicts


def local_corpus(tables: Iterable[pa.Table], **kwargs: Any) -> tuple[Corpus, dict[str, int]]:
    """A corpus of tables in this process's memory."""
    return gather([(table, table) for table in tables], **kwargs)


def _flat(table: pa.Table, column: str) -> npt.NDArray[np.int32]:
    lists = table[column].combine_chunks()
    if not len(lists):
        return np.empty(0, dtype=np.int32)
    values: npt.NDArray[np.int32] = lists.flatten().to_numpy(zero_copy_only=False)
    return values


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counted = column.value_counts()
    return {item["values"]: item["counts"] for item in counted.to_pylist()}


def _joined(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
