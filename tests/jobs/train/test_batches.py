import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.tokens import IGNORED, Example
from aligner_jobs.train.batches import Corpus, IntArray, collate, epoch_batches, worker_parts

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=300).map(
    lambda lengths: np.array(lengths, dtype=np.int64)
)


def corpus_of(*rows: tuple[int, int]) -> Corpus:
    """Rows of (prompt tokens, target tokens) with ids that tell row and place."""
    examples = []
    for number, (prompt, target) in enumerate(rows, start=1):
        ids = [100 * number + place for place in range(prompt + target)]
        examples.append(Example(prompt_ids=ids[:prompt], target_ids=ids[prompt:]))
    return Corpus.of(examples)


@given(lengths=LENGTHS, batch=st.integers(1, 16), epoch=st.integers(0, 3))
def test_every_row_occurs_once_per_epoch(lengths: IntArray, batch: int, epoch: int) -> None:
    batches = epoch_batches(lengths, global_batch_size=batch, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert sorted(map(len, batches), reverse=True)[:-1] == [batch] * (len(batches) - 1)


@given(
    lengths=LENGTHS,
    micro=st.integers(1, 4),
    world_size=st.sampled_from([1, 2, 4]),
)
def test_workers_share_a_global_batch_without_rest(
    lengths: IntArray, micro: int, world_size: int
) -> None:
    passes = 8 // world_size
    for rows in epoch_batches(lengths, global_batch_size=8 * micro, seed=0, epoch=0):
        parts = [
            part
            for rank in range(world_size)
            for part in worker_parts(rows, passes=passes, world_size=world_size, rank=rank)
        ]
        assert len(parts) == passes * world_size
        assert max(map(len, parts)) <= micro
        assert sorted(np.concatenate(parts)) == sorted(rows)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    lengths = np.arange(2, 502)

    def order(seed: int, epoch: int) -> list[int]:
        batches = epoch_batches(lengths, global_batch_size=8, seed=seed, epoch=epoch)
        return [int(row) for rows in batches for row in rows]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_little_padding_is_left_and_yet_batches_come_in_mixed_order() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, size=10_000)
    batches = epoch_batches(lengths, global_batch_size=64, seed=0, epoch=0)
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    assert padded / lengths.sum() < 1.05
    first_half = np.concatenate(batches[: len(batches) // 2])
    assert abs(lengths[first_half].mean() / lengths.mean() - 1) < 0.2


def test_a_batch_predicts_the_targets_and_nothing_else() -> None:
    batch = collate(corpus_of((3, 2), (2, 4)), np.array([0, 1]))
    assert batch.input_ids_BT.tolist() == [[100, 101, 102, 103, 0], [200, 201, 202, 203, 204]]
    assert batch.targets_BK.tolist() == [[IGNORED, 103, 104, IGNORED], [202, 203, 204, 205]]
    assert batch.kept == 4


@given(rows=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_each_target_stands_one_place_after_the_input_it_follows(
    rows: list[tuple[int, int]],
) -> None:
    corpus = corpus_of(*rows)
    every = np.arange(len(rows))
    batch = collate(corpus, every)
    inputs = batch.input_ids_BT[:, -batch.kept :]
    learned = batch.targets_BK != IGNORED
    assert learned.sum() == corpus.target_tokens(every)
    assert ((batch.targets_BK - inputs)[learned] == 1).all()


def test_a_worker_without_rows_gets_a_batch_without_targets() -> None:
    batch = collate(corpus_of((3, 2)), np.array([], dtype=np.int64))
    assert batch.input_ids_BT.shape == batch.targets_BK.shape == (1, 1)
    assert (batch.targets_BK == IGNORED).all()


@pytest.mark.parametrize("rows", [0, 3])
def test_a_corpus_knows_its_rows(rows: int) -> None:
    corpus = corpus_of(*[(2, 3)] * rows)
    assert len(corpus) == len(corpus.lengths) == rows
    assert corpus.lengths.tolist() == [5] * rows
