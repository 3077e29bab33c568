"""Packs: tokenised rows put together up to a token budget. Shapes: T = tokens, D = documents.

A document is one row: its prompt and its correction with EOS. A pack holds documents one after the
other and says where each begins, so that attention can stop there and positions start again; none
is ever cut. Rows are packed a window of 1,000 at a time: memory stays flat, and the packs of a
split's first 20,000 rows are those of its first 20 windows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aligner.tokens import IGNORED, Example, fitness

WINDOW_ROWS: Final = 1_000
"""Larger windows would fill packs of 2,048 tokens by less than 1 % more."""

PACK_SCHEMA: Final = pa.schema(
    [
        ("window", pa.int32()),
        ("row_ids", pa.list_(pa.string())),
        ("lengths", pa.list_(pa.int32())),
        ("prompt_lengths", pa.list_(pa.int32())),
        ("input_ids", pa.list_(pa.int32())),
    ]
)
"""Columns of a dataset artefact's ``packed/<split>/`` Parquet files, one pack a row."""

IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Document:
    """A row as tokens."""

    row_id: str
    example: Example


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Documents in the order of their rows; everything that training needs follows from these."""

    window: int
    """Which thousand of the split's rows they are of, counted from 0."""
    row_ids: tuple[str, ...]
    """D ids."""
    lengths_D: IntArray
    """Tokens of each document; they add up to T."""
    prompt_lengths_D: IntArray
    """Its first tokens, which bear no loss."""
    input_ids_T: IntArray
    """All documents, one after the other."""

    @property
    def starts(self) -> IntArray:
        """D + 1 places in ``input_ids_T``: where each document begins, and T."""
        return np.concatenate([[0], np.cumsum(self.lengths_D)]).astype(np.int32)

    @property
    def labels_T(self) -> NDArray[np.int64]:
        """:data:`IGNORED` on prompts, the ids on corrections and their EOS.

        Since every document begins with a prompt, none is predicted from the one before it.
        """
        learned = self.position_ids_T >= np.repeat(self.prompt_lengths_D, self.lengths_D)
        return np.where(learned, self.input_ids_T, IGNORED).astype(np.int64)

    @property
    def position_ids_T(self) -> NDArray[np.int64]:
        """Positions, from 0 in each document."""
        begins = np.repeat(self.starts[:-1], self.lengths_D)
        return np.arange(len(self.input_ids_T), dtype=np.int64) - begins

    def examples(self) -> list[Example]:
        """The D examples that were packed."""
        ids, starts = self.input_ids_T.tolist(), self.starts.tolist()
        borders = zip(starts[:-1], self.prompt_lengths_D.tolist(), starts[1:], strict=True)
        return [
            Example(ids[at : at + prompt], ids[at + prompt : end]) for at, prompt, end in borders
        ]


@dataclass(frozen=True, slots=True)
class Window:
    """The packs of one window, and how many of its rows could not be packed, by reason."""

    packs: list[Pack]
    set_aside: Counter[str]


def pack(documents: Sequence[Document], *, max_tokens: int, window: int) -> Window:
    """Pack up to :data:`WINDOW_ROWS` documents; no pack exceeds ``max_tokens``.

    Every document that fits is in one pack. Packs come in the order of their first document, and
    equal documents give equal packs.
    """
    verdicts = [fitness(one.example, max_tokens=max_tokens) for one in documents]
    fit = [one for one, verdict in zip(documents, verdicts, strict=True) if verdict == "keep"]
    groups = first_fit([len(one.example) for one in fit], max_tokens=max_tokens)
    packs = [_joined([fit[place] for place in group], window=window) for group in groups]
    return Window(packs, Counter(verdict for verdict in verdicts if verdict != "keep"))


def first_fit(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Places in ``lengths``, grouped so that no group's lengths add up to more than ``max_tokens``.

    First-fit-decreasing: it needs at most 11/9 of the fewest groups possible, and one more. Groups
    come in the order of their first place, places in their order.
    """
    free = np.full(len(lengths), max_tokens)
    groups: list[list[int]] = [[] for _ in lengths]
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        group = int(np.argmax(free >= lengths[place]))
        free[group] -= lengths[place]
        groups[group].append(place)
    return sorted(sorted(group) for group in groups if group)


def to_table(packs: Iterable[Pack]) -> pa.Table:
    """``packs`` as rows of :data:`PACK_SCHEMA`."""
    made = list(packs)
    columns = {
        "window": pa.array([one.window for one in made], pa.int32()),
        "row_ids": pa.array([one.row_ids for one in made], PACK_SCHEMA.field("row_ids").type),
        "lengths": _lists([one.lengths_D for one in made]),
        "prompt_lengths": _lists([one.prompt_lengths_D for one in made]),
        "input_ids": _lists([one.input_ids_T for one in made]),
    }
    return pa.table(columns, schema=PACK_SCHEMA)


def read_packs(table: pa.Table) -> Iterator[Pack]:
    """The inverse of :func:`to_table`."""
    for record in table.to_batches():
        for number in range(record.num_rows):
            yield _of_record({name: record[name][number] for name in PACK_SCHEMA.names})


def _of_record(record: dict[str, Any]) -> Pack:
    return Pack(
        window=record["window"].as_py(),
        row_ids=tuple(record["row_ids"].as_py()),
        lengths_D=record["lengths"].values.to_numpy(),
        prompt_lengths_D=record["prompt_lengths"].values.to_numpy(),
        input_ids_T=record["input_ids"].values.to_numpy(),
    )


def _joined(documents: Sequence[Document], *, window: int) -> Pack:
    examples = [one.example for one in documents]
    flat = [token for example in examples for token in example.input_ids]
    return Pack(
        window=window,
        row_ids=tuple(one.row_id for one in documents),
        lengths_D=np.array([len(example) for example in examples], dtype=np.int32),
        prompt_lengths_D=np.array([len(one.prompt_ids) for one in examples], dtype=np.int32),
        input_ids_T=np.array(flat, dtype=np.int32),
    )


def _lists(arrays: Sequence[IntArray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
    values = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int32()))
