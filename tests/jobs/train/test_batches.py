import numpy as np
import pytest
from corpora import counting
from hypothesis import given
from hypothesis import strategies as st

from aligner.tokens import IGNORED
from aligner_jobs.train.batches import collate, epoch_batches, packed_passes, padded_passes
from aligner_jobs.train.corpus import IntArray

ROWS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=60)
WORLD_SIZE = st.sampled_from([1, 2, 3, 4])


@given(rows=st.integers(1, 3000), batch=st.integers(1, 16), epoch=st.integers(0, 3))
def test_every_row_occurs_once_per_epoch(rows: int, batch: int, epoch: int) -> None:
    batches = epoch_batches(rows, global_batch_size=batch, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert sorted(map(len, batches), reverse=True)[:-1] == [batch] * (len(batches) - 1)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = epoch_batches(500, global_batch_size=8, seed=seed, epoch=epoch)
        return [int(row) for rows in batches for row in rows]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_large_corpus_is_read_some_windows_at_a_time() -> None:
    """So that a worker never holds more than a pool of 64,000 rows, wherever they lie."""
    batches = epoch_batches(500_000, global_batch_size=1000, seed=0, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(500_000))
    windows = {int(row) // 1000 for rows in batches[:64] for row in rows}
    assert len(windows) == 64
    assert max(windows) - min(windows) > 300


def flat(passes: list[list[IntArray]]) -> list[int]:
    return sorted(int(row) for parts in passes for part in parts for row in part)


@given(rows=ROWS, world_size=WORLD_SIZE, room=st.integers(40, 200))
def test_packs_hold_each_row_once_and_no_more_than_their_room(
    rows: list[tuple[int, int]], world_size: int, room: int
) -> None:
    corpus, chosen = counting(*rows), np.arange(len(rows))
    passes = packed_passes(corpus, chosen, max_tokens=room, world_size=world_size)
    assert flat(passes) == list(range(len(rows)))
    assert {len(parts) for parts in passes} == {world_size}
    assert max(corpus.tokens(part) for parts in passes for part in parts) <= room


def test_workers_get_like_work_and_packs_are_full() -> None:
    random = np.random.default_rng(0)
    sizes = [(int(n) // 2, int(n) - int(n) // 2) for n in random.integers(20, 600, size=256)]
    corpus = counting(*sizes)
    passes = packed_passes(corpus, np.arange(256), max_tokens=2048, world_size=4)
    tokens = np.array([[corpus.tokens(part) for part in parts] for parts in passes])
    assert (tokens.max(axis=1) - tokens.min(axis=1)).max() < 60
    assert tokens.sum() / (2048 * tokens.size) > 0.9


def test_a_row_that_fits_no_pack_is_an_error() -> None:
    with pytest.raises(ValueError, match="a row of 50 tokens does not fit into 40"):
        packed_passes(counting((20, 30)), np.arange(1), max_tokens=40, world_size=1)


@given(rows=ROWS, world_size=WORLD_SIZE, micro=st.integers(1, 5))
def test_padded_parts_share_a_global_batch_without_rest(
    rows: list[tuple[int, int]], world_size: int, micro: int
) -> None:
    corpus, chosen = counting(*rows), np.arange(len(rows))
    passes = padded_passes(corpus, chosen, micro_batch_size=micro, world_size=world_size)
    assert flat(passes) == list(range(len(rows)))
    assert max(len(part) for parts in passes for part in parts) <= micro


def test_padded_rows_predict_the_targets_and_nothing_else() -> None:
    batch = collate(counting((3, 2), (2, 4)), np.array([0, 1]), packed=False)
    assert batch.input_ids_BT.tolist() == [[200, 201, 202, 203, 204], [100, 101, 102, 103, 0]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert batch.targets_K.tolist() == [202, 203, 204, 205, 103, 104]
    assert batch.input_ids_BT[batch.keep_BT].tolist() == [201, 202, 203, 204, 102, 103]


def test_a_pack_holds_documents_end_to_end_longest_first() -> None:
    batch = collate(counting((3, 2), (2, 4)), np.array([0, 1]), packed=True)
    assert batch.input_ids_BT.tolist() == [[200, 201, 202, 203, 204, 100, 101, 102, 103]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert batch.targets_K.tolist() == [202, 203, 204, 205, 103, 104]
    assert batch.documents_K.tolist() == [0, 0, 0, 0, 1, 1]
    assert batch.order.tolist() == [1, 0]
    assert batch.tokens == 9


@given(rows=ROWS, packed=st.booleans())
def test_each_target_stands_one_place_after_the_input_it_follows(
    rows: list[tuple[int, int]], packed: bool
) -> None:
    corpus, every = counting(*rows), np.arange(len(rows))
    batch = collate(corpus, every, packed=packed)
    assert len(batch.targets_K) == len(batch.documents_K) == corpus.target_tokens(every)
    assert (batch.targets_K - batch.input_ids_BT[batch.keep_BT] == 1).all()
    assert (batch.targets_K // 100 - 1 == batch.order[batch.documents_K]).all()


@pytest.mark.parametrize("packed", [False, True])
def test_a_worker_without_rows_gets_a_batch_without_targets(packed: bool) -> None:
    batch = collate(counting((3, 2)), np.array([], dtype=np.int64), packed=packed)
    assert batch.input_ids_BT.shape == (1, 1)
    assert (batch.targets_K == IGNORED).all()
    assert not len(batch.order)
