"""From rows to what one forward call is given. Shapes: B = sequences, T = tokens of each,
K = predicted tokens of all.

Which rows make a global batch depends on seed and epoch alone. Workers only take parts of it, so
a run with another number of workers, packed or not, sees the same batches in the same order.
"""

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from aligner.tokens import IGNORED
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.corpus import Corpus, IntArray

_WINDOW_ROWS: Final = 1_000
_POOL_WINDOWS: Final = 64
"""Rows are shuffled inside pools of so many windows, which are drawn at random themselves: a worker
reads a few blocks of a large corpus at a time, and a small one is shuffled as a whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One forward call, padded rows or one pack. The last token of a document is target only."""

    input_ids_BT: IntArray
    position_ids_BT: IntArray
    keep_BT: npt.NDArray[np.bool_]
    """The K positions whose next token bears loss; no others need logits."""
    targets_K: IntArray
    documents_K: IntArray
    """Which of the batch's documents each target belongs to: an index into ``order``."""
    order: IntArray
    """The documents in the order in which they stand in the batch."""
    lengths: IntArray
    """Inputs of each document in ``order``."""
    packed: bool

    @property
    def tokens(self) -> int:
        """Inputs, padding not counted."""
        return int(self.lengths.sum())


def epoch_batches(rows: int, *, global_batch_size: int, seed: int, epoch: int) -> list[IntArray]:
    """Rows of each global batch of one epoch, out of ``rows``.

    Every row occurs exactly once; the last batch may be smaller than the others.
    """
    random = np.random.default_rng([seed, epoch])
    windows = random.permutation(-(-rows // _WINDOW_ROWS))
    pools = []
    for begin in range(0, len(windows), _POOL_WINDOWS):
        starts = windows[begin : begin + _POOL_WINDOWS] * _WINDOW_ROWS
        pool = [np.arange(start, min(start + _WINDOW_ROWS, rows)) for start in starts]
        pools.append(random.permutation(np.concatenate(pool)))
    order = np.concatenate(pools).astype(np.int64) if pools else np.empty(0, dtype=np.int64)
    return [order[at : at + global_batch_size] for at in range(0, rows, global_batch_size)]


def passes_of(
    corpus: Corpus, rows: IntArray, *, config: TrainConfig, world_size: int
) -> list[list[IntArray]]:
    """``rows``, a global batch, by pass and worker; a part may be empty."""
    if config.packing:
        return packed_passes(corpus, rows, max_tokens=config.pack_tokens, world_size=world_size)
    return padded_passes(
        corpus, rows, micro_batch_size=config.micro_batch_size, world_size=world_size
    )


def packed_passes(
    corpus: Corpus, rows: IntArray, *, max_tokens: int, world_size: int
) -> list[list[IntArray]]:
    """``rows`` of one global batch, dealt to packs of at most ``max_tokens``: as few passes as
    will do, and in each the workers have about the same number of tokens.

    Raises:
        ValueError: One row is longer than ``max_tokens``.
    """
    lengths = corpus.row_lengths[rows]
    if lengths.max() > max_tokens:
        raise ValueError(f"a row of {lengths.max()} tokens does not fit into {max_tokens}")
    order = np.argsort(-lengths, kind="stable")
    passes = max(1, -(-int(lengths.sum()) // (max_tokens * world_size)))
    while (packs := _evenly(lengths, order, passes * world_size, max_tokens)) is None:
        passes += 1
    # Packs of like size go through together: in a pass all workers wait for the largest.
    packs.sort(key=lambda pack: -int(lengths[pack].sum()))
    return [
        [rows[np.array(pack, dtype=np.int64)] for pack in packs[at : at + world_size]]
        for at in range(0, len(packs), world_size)
    ]


def _evenly(
    lengths: IntArray, order: IntArray, packs: int, max_tokens: int
) -> list[list[int]] | None:
    """Each place into the emptiest pack, longest first; ``None`` where one fits nowhere."""
    emptiest = [(0, pack) for pack in range(packs)]
    members: list[list[int]] = [[] for _ in range(packs)]
    for place in order:
        filled, pack = emptiest[0]
        if filled + lengths[place] > max_tokens:
            return None
        heapq.heapreplace(emptiest, (filled + int(lengths[place]), pack))
        members[pack].append(int(place))
    return members


def padded_passes(
    corpus: Corpus, rows: IntArray, *, micro_batch_size: int, world_size: int
) -> list[list[IntArray]]:
    """``rows`` of one global batch, at most ``micro_batch_size`` for a worker in a pass.

    Rows of like length go through together, and all workers get their share of short and long.
    """
    rows = rows[np.argsort(corpus.row_lengths[rows], kind="stable")]
    passes = -(-len(rows) // (micro_batch_size * world_size))
    return [
        [part[rank::world_size] for rank in range(world_size)]
        for part in np.array_split(rows, passes)
    ]


def collate(corpus: Corpus, rows: IntArray, *, packed: bool) -> Batch:
    """One forward call over ``rows``; for none one without any target, so that no worker misses
    a pass in which others have something to do.
    """
    if not len(rows):
        return _nothing(packed)
    documents = corpus.documents_of(rows)
    documents = documents[np.argsort(-corpus.lengths[documents], kind="stable")]
    ids = corpus.read(documents)
    lengths = corpus.lengths[documents] - 1
    prompts = corpus.prompt_lengths[documents]
    shape = (1, int(lengths.sum())) if packed else (len(documents), int(lengths.max()))
    inputs = np.zeros(shape, dtype=np.int64)
    # Padding goes on counting: positions that begin anew would be taken for another document.
    positions = np.tile(np.arange(shape[1]), (shape[0], 1))
    keep = np.zeros(shape, dtype=np.bool_)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for at, (tokens, length, prompt) in enumerate(zip(ids, lengths, prompts, strict=True)):
        line, begin = (0, starts[at]) if packed else (at, 0)
        inputs[line, begin : begin + length] = tokens[:-1]
        positions[line, begin : begin + length] = np.arange(length)
        keep[line, begin + prompt - 1 : begin + length] = True
    targets = [tokens[prompt:] for tokens, prompt in zip(ids, prompts, strict=True)]
    return Batch(
        input_ids_BT=inputs,
        position_ids_BT=positions,
        keep_BT=keep,
        targets_K=np.concatenate(targets).astype(np.int64),
        documents_K=np.repeat(np.arange(len(documents)), [len(t) for t in targets]),
        order=documents,
        lengths=lengths,
        packed=packed,
    )


def _nothing(packed: bool) -> Batch:
    """One token whose prediction is not counted: a model cannot be called with none at all."""
    one = np.zeros((1, 1), dtype=np.int64)
    return Batch(
        input_ids_BT=one,
        position_ids_BT=one,
        keep_BT=np.ones((1, 1), dtype=np.bool_),
        targets_K=np.full(1, IGNORED, dtype=np.int64),
        documents_K=np.zeros(1, dtype=np.int64),
        order=np.empty(0, dtype=np.int64),
        lengths=np.ones(1, dtype=np.int64),
        packed=packed,
    )
