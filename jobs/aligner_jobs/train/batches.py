"""From rows to padded arrays. Shapes: B = rows, T = tokens of the longest, K = kept positions.

Which rows make a global batch depends on seed and epoch alone. Workers only take parts of it, so
a run with another number of workers sees the same batches in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from aligner.tokens import IGNORED, Example

IntArray = npt.NDArray[np.int64]

_POOL_BATCHES: Final = 64
"""Rows are sorted by length inside pools of this many global batches: little padding is left,
and yet a row meets other neighbours in each epoch."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tokenised rows in flat arrays, which Ray's object store shares between workers."""

    tokens: npt.NDArray[np.int32]
    """All rows one after the other."""
    starts: IntArray
    """Where each row begins in ``tokens``; one longer than there are rows."""
    prompt_lengths: IntArray
    """Tokens of each row without loss."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Corpus":
        """Lay ``examples`` out flat, in order."""
        lengths = [len(example) for example in examples]
        flat = [token for example in examples for token in example.input_ids]
        return cls(
            tokens=np.array(flat, dtype=np.int32),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            prompt_lengths=np.array([len(e.prompt_ids) for e in examples], dtype=np.int64),
        )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> IntArray:
        """Tokens of each row."""
        return np.diff(self.starts)

    def row(self, index: int) -> npt.NDArray[np.int32]:
        """Ids of one row."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    def target_tokens(self, rows: IntArray) -> int:
        """Tokens with loss in ``rows``."""
        return int((self.lengths[rows] - self.prompt_lengths[rows]).sum())


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded at the right, ready for a causal model.

    A causal model's real positions never look at what stands to their right, so no attention
    mask is needed. The last token of a row is target only, hence T - 1 inputs.
    """

    input_ids_BT: IntArray
    """B x (T - 1) inputs, padding 0."""
    targets_BK: IntArray
    """B x K: what the last K inputs should predict; :data:`IGNORED` on prompts and padding."""

    @property
    def kept(self) -> int:
        """K: from the shortest prompt's end on; positions before it need no logits."""
        return int(self.targets_BK.shape[1])


def epoch_batches(
    lengths: IntArray, *, global_batch_size: int, seed: int, epoch: int
) -> list[IntArray]:
    """Row indices of each global batch of one epoch, short rows first within a batch.

    Every row occurs exactly once; one batch may be smaller than the others.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    pool = _POOL_BATCHES * global_batch_size
    batches: list[IntArray] = []
    for begin in range(0, len(order), pool):
        rows = order[begin : begin + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [
            rows[at : at + global_batch_size] for at in range(0, len(rows), global_batch_size)
        ]
    return [batches[i] for i in random.permutation(len(batches))]


def worker_parts(rows: IntArray, *, passes: int, world_size: int, rank: int) -> list[IntArray]:
    """What worker ``rank`` trains on in each pass of one global batch (a part may be empty).

    Rows of like length go through together, and all workers get their share of short and long.
    """
    return [part[rank::world_size] for part in np.array_split(rows, passes)]


def collate(corpus: Corpus, rows: IntArray) -> Batch:
    """Pad ``rows``; for no rows a batch without any target, so that no worker misses a pass."""
    if not len(rows):
        nothing = np.full((1, 1), IGNORED, dtype=np.int64)
        return Batch(input_ids_BT=np.zeros((1, 1), dtype=np.int64), targets_BK=nothing)
    longest = int(corpus.lengths[rows].max())
    first = int(corpus.prompt_lengths[rows].min())
    inputs = np.zeros((len(rows), longest - 1), dtype=np.int64)
    targets = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for at, index in enumerate(rows):
        ids, prompt = corpus.row(index), corpus.prompt_lengths[index]
        inputs[at, : len(ids) - 1] = ids[:-1]
        targets[at, prompt : len(ids)] = ids[prompt:]
    return Batch(input_ids_BT=inputs, targets_BK=targets[:, first:])
