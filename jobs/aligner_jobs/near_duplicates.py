"""Finding near-duplicates among sorted rows: one Ray Data job per question.

Which rows may be alike? A row of that job is a band: its task sorts the band's hashes, 8 bytes a
row, and writes pairs to a file. Which of them are? A row is a stretch of that file: its task reads
those rows' texts and compares them. Rows and pairs stay on the driver's disk, and so these tasks
stay on the driver's node.
"""

import functools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray

from aligner import dedup
from aligner.dedup import Mask, Pairs
from aligner_jobs.config.quality import NearDuplicates
from aligner_jobs.sorted_rows import SortedRows

_ROUNDS: Final = 3
"""A row may hide behind one that fell; the next round looks among those that stayed."""

_PAIRS_PER_TASK: Final = 32_768
_PAIRS_AT_ONCE: Final = 2_048
"""Bounds the texts that a task holds."""


def find(rows: SortedRows, *, config: NearDuplicates) -> Mask:
    """For each numbered row, whether it is a near-duplicate of an earlier one that stays.

    The driver holds a byte per row and 16 bytes per pair that is compared.
    """
    falls = np.zeros(rows.kept, dtype=np.bool_)
    known = dedup.unique_pairs([])
    folder = rows.folder.with_name("near_duplicates")
    folder.mkdir()
    try:
        bands = _write_bands(rows, folder, bands=dedup.banding(config.threshold).bands)
        for _ in range(_ROUNDS):
            pairs = dedup.without_pairs(candidates(bands, falls), known)
            fell = dedup.fallen(_verified(pairs, rows, folder, config), rows=rows.kept)
            if not fell.any():
                break
            falls |= fell
            known = dedup.unique_pairs([known, pairs])
    finally:
        shutil.rmtree(folder)
    return falls


# --- candidates -----------------------------------------------------------------------------------


def _write_bands(rows: SortedRows, folder: Path, *, bands: int) -> list[Path]:
    """One file per band: the hash of every numbered row, in order."""
    paths = [folder / f"band-{number:03d}" for number in range(bands)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for table in rows.kept_tables():
            joined = b"".join(table["sketch"].to_pylist())
            hashes_NB = np.frombuffer(joined, dtype=np.uint64).reshape(-1, bands)
            for file, hashes_N in zip(files, hashes_NB.T, strict=True):
                file.write(hashes_N.tobytes())
    return paths


def candidates(bands: list[Path], falls: Mask) -> Pairs:
    """Pairs that agree in a band, of rows that have not fallen."""
    if not falls.size:
        return dedup.unique_pairs([])
    found = _on_this_node(
        [{"band": str(path)} for path in bands],
        functools.partial(_pairs_of_bands, falls=ray.put(falls)),
    )
    pairs = dedup.unique_pairs([])
    for table in found:
        # One band after the other, so that a pair found by many is not held many times.
        pairs = dedup.unique_pairs([pairs, _as_pairs(table)])
    return pairs


def _pairs_of_bands(batch: pa.Table, *, falls: "ray.ObjectRef[Mask]") -> Iterator[pa.Table]:
    """Columns in: band (a file). Columns out: later, earlier. Rows: its pairs."""
    stays: NDArray[np.int64] = np.flatnonzero(~ray.get(falls))
    for path in batch["band"].to_pylist():
        hashes = np.fromfile(path, dtype=np.uint64)[stays]
        yield _as_table(dedup.candidates(hashes, stays))


# --- comparison -----------------------------------------------------------------------------------


def _verified(pairs: Pairs, rows: SortedRows, folder: Path, config: NearDuplicates) -> Pairs:
    """Those of ``pairs`` that reach the threshold."""
    if not len(pairs):
        return pairs
    path = folder / "pairs"
    pairs.tofile(path)
    found = _on_this_node(
        [
            {"start": start, "stop": min(start + _PAIRS_PER_TASK, len(pairs))}
            for start in range(0, len(pairs), _PAIRS_PER_TASK)
        ],
        functools.partial(
            _similar_pairs, pairs=str(path), rows=rows, config=config.model_dump(mode="json")
        ),
    )
    return dedup.unique_pairs([_as_pairs(table) for table in found])


def _similar_pairs(
    batch: pa.Table, *, pairs: str, rows: SortedRows, config: dict[str, Any]
) -> Iterator[pa.Table]:
    """Columns in: start, stop (in the file ``pairs``). Columns out: later, earlier.

    Rows: the pairs of that stretch that reach the threshold.
    """
    settings = NearDuplicates.model_validate(config)
    for stretch in batch.to_pylist():
        for start in range(stretch["start"], stretch["stop"], _PAIRS_AT_ONCE):
            count = min(_PAIRS_AT_ONCE, stretch["stop"] - start)
            # A pair is two numbers of 8 bytes.
            part = np.fromfile(pairs, dtype=np.int64, count=2 * count, offset=16 * start)
            yield _as_table(_similar(part.reshape(-1, 2), rows, settings))


def _similar(pairs: Pairs, rows: SortedRows, config: NearDuplicates) -> Pairs:
    numbers, places = np.unique(pairs, return_inverse=True)
    table = rows.take(numbers, columns=["question", "answer"])
    texts = zip(table["question"].to_pylist(), table["answer"].to_pylist(), strict=True)
    sets = dedup.shingles(list(texts), size=config.shingle_words).sets()
    alike = [
        dedup.jaccard(sets[one], sets[other]) >= config.threshold
        for one, other in places.reshape(-1, 2).tolist()
    ]
    return pairs[np.array(alike, dtype=np.bool_)]


# --- Ray Data -------------------------------------------------------------------------------------


def _on_this_node(items: list[dict[str, Any]], task: Any) -> Iterator[pa.Table]:
    """What ``task`` makes of ``items``, one task per item, on the node of the driver."""
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    yield from (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(task, batch_format="pyarrow", batch_size=1, label_selector=here)
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )


def _as_table(pairs: Pairs) -> pa.Table:
    return pa.table({"later": pairs[:, 0], "earlier": pairs[:, 1]})


def _as_pairs(table: pa.Table) -> Pairs:
    columns = [table[name].to_numpy() for name in ("later", "earlier")]
    return np.stack(columns, axis=1)
