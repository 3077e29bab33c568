"""The last steps of a dataset: duplicates out, mix, splits, warm-up rows, Parquet files.

Rows are sorted first, and everything is decided row by row in that order: it is the same in every
run, and the first N rows of ``train/`` are a random sample of it, so that samples of growing size
nest.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aligner import artefacts
from aligner.errors import DataError
from aligner.records import TRIPLE_SCHEMA, Question, from_columns, to_columns, turns_of
from aligner.splits import split_of, unit_hash
from aligner.warmup import identity_row
from aligner_jobs import sorted_rows
from aligner_jobs.sorted_rows import SortedRows
from aligner_jobs.tables import SET_ASIDE_SCHEMA, PartWriter, Step, Tally, mark

TRAIN: Final = "train"
HELDOUT: Final = "heldout"
WARMUP: Final = "warmup"
SET_ASIDE: Final = "set_aside"

Mask = NDArray[np.bool_]

FindNear = Callable[[SortedRows], Mask]
"""For each numbered row, whether it is a near-duplicate of one with a smaller number."""

Look = Callable[[pa.Table], None]
"""Is shown every row with its final fate, table by table."""


def write(
    tables: Iterable[pa.Table],
    folder: Path,
    *,
    heldout_share: float,
    warmup_share: float,
    mix: Mapping[str, float] | None = None,
    find_near: FindNear | None = None,
    look: Look | None = None,
) -> tuple[Tally, dict[str, int]]:
    """Write the four folders of a dataset from the rows of ``tables``, which may come in any order.

    ``mix`` maps sources to their shares of the rows. Returns how the rows fared and the rows of
    each folder. Memory holds no more than a 256th of the rows and a few numbers for each; the rest
    waits on disk in ``folder``.
    """
    rows = sorted_rows.sort(tables, folder / "sorted")
    fates = _Fates(rows.kept)
    if find_near is not None:
        fates.drop(find_near(rows), step="duplicates", reason="near_duplicate")
    if mix:
        over = _over_share(rows, mix, alive=fates.alive)
        fates.drop(over, step="mix", reason="over_share")
    heldout, warmup = _splits(
        rows, fates.alive, heldout_share=heldout_share, warmup_share=warmup_share
    )
    written = _write_parts(rows, fates, heldout, warmup, folder, look)
    shutil.rmtree(rows.folder)
    return written


def heldout_questions(uri: str) -> list[Question]:
    """The held-out questions of the dataset at ``uri``, once for each of their rows.

    Raises:
        DataError: There is no dataset, or it cannot be read.
    """
    artefacts.read_manifest(uri, kind="dataset")
    filesystem, path = artefacts.resolve(uri)
    try:
        table = pq.read_table(
            f"{path}/{HELDOUT}", filesystem=filesystem, columns=["question", "history"]
        )
    except (OSError, pa.ArrowInvalid):
        raise DataError(f"{uri}/{HELDOUT}: cannot be read; build the dataset again.") from None
    return [Question(row["question"], turns_of(row["history"])) for row in table.to_pylist()]


# --- decisions, row by row ------------------------------------------------------------------------


class _Fates:
    """What becomes of the numbered rows."""

    def __init__(self, rows: int) -> None:
        self._reasons: list[tuple[Step, str]] = []
        self._codes = np.zeros(rows, dtype=np.uint8)
        """0 for a row that stays, else one more than the place in ``_reasons``."""

    @property
    def alive(self) -> Mask:
        """The rows that stay."""
        alive: Mask = self._codes == 0
        return alive

    def drop(self, which: Mask, *, step: Step, reason: str) -> None:
        """Drop those of the rows that are still alive."""
        self._reasons.append((step, reason))
        self._codes[which & self.alive] = len(self._reasons)

    def marked(self, table: pa.Table, *, first: int) -> tuple[pa.Table, int]:
        """``table`` with its rows' fates, and how many numbered rows it held."""
        numbered = pc.is_null(table["reason"]).to_numpy()
        codes = np.zeros(table.num_rows, dtype=np.uint8)
        count = int(numbered.sum())
        codes[numbered] = self._codes[first : first + count]
        for code, (step, reason) in enumerate(self._reasons, start=1):
            table = mark(table, pa.array(codes == code), step=step, reason=reason)
        return table, count


def _over_share(rows: SortedRows, mix: Mapping[str, float], *, alive: Mask) -> Mask:
    """Rows too many for the shares of ``mix``: as many stay as the scarcest source permits."""
    names = pa.array(list(mix))
    sources = np.full(rows.kept, -1, dtype=np.int32)
    ranks = np.ones(rows.kept)
    first = 0
    for table in rows.kept_tables():
        own = slice(first, first + table.num_rows)
        sources[own] = pc.fill_null(pc.index_in(table["source"], names), -1).to_numpy()
        ranks[own] = [unit_hash(row_id, salt="mix") for row_id in table["row_id"].to_pylist()]
        first += table.num_rows
    total = sum(mix.values())
    there = np.bincount(sources[alive & (sources >= 0)], minlength=len(mix)).tolist()
    most = min(count * total / share for count, share in zip(there, mix.values(), strict=True))
    over = np.zeros(rows.kept, dtype=np.bool_)
    for number, share in enumerate(mix.values()):
        found = np.flatnonzero(alive & (sources == number))
        found = found[np.argsort(ranks[found], kind="stable")]
        over[found[round(most * share / total) :]] = True
    return over


def _splits(
    rows: SortedRows, alive: Mask, *, heldout_share: float, warmup_share: float
) -> tuple[Mask, Mask]:
    """The held-out rows, and the training rows that identity rows are made of."""
    heldout = np.zeros(rows.kept, dtype=np.bool_)
    ranks = np.ones(rows.kept)
    first = 0
    for table in rows.kept_tables():
        for number, question_id in enumerate(table["question_id"].to_pylist(), start=first):
            heldout[number] = split_of(question_id, heldout_share=heldout_share) == "heldout"
        for number, row_id in enumerate(table["row_id"].to_pylist(), start=first):
            ranks[number] = unit_hash(row_id, salt="warmup")
        first += table.num_rows
    train = np.flatnonzero(alive & ~heldout)
    chosen = train[np.argsort(ranks[train], kind="stable")][: round(warmup_share * len(train))]
    warmup = np.zeros(rows.kept, dtype=np.bool_)
    warmup[chosen] = True
    return heldout, warmup


# --- files ----------------------------------------------------------------------------------------


def _write_parts(
    rows: SortedRows,
    fates: _Fates,
    heldout: Mask,
    warmup: Mask,
    folder: Path,
    look: Look | None,
) -> tuple[Tally, dict[str, int]]:
    writers = {name: PartWriter(folder / name, TRIPLE_SCHEMA) for name in (TRAIN, HELDOUT, WARMUP)}
    writers[SET_ASIDE] = PartWriter(folder / SET_ASIDE, SET_ASIDE_SCHEMA)
    tally, first = Tally(), 0
    for table in rows.tables():
        marked, count = fates.marked(table, first=first)
        own = slice(first, first + count)
        first += count
        tally.add(marked)
        if look is not None:
            look(marked)
        stays = pc.is_null(marked["reason"])
        writers[SET_ASIDE].write(marked.filter(pc.invert(stays)))
        kept = marked.filter(stays)
        alive = fates.alive[own]
        is_heldout = pa.array(heldout[own][alive])
        writers[HELDOUT].write(kept.filter(is_heldout))
        writers[TRAIN].write(kept.filter(pc.invert(is_heldout)))
        copied = kept.filter(pa.array(warmup[own][alive])).select(TRIPLE_SCHEMA.names)
        identity = [to_columns(identity_row(from_columns(row))) for row in copied.to_pylist()]
        writers[WARMUP].write(pa.Table.from_pylist(identity, schema=TRIPLE_SCHEMA))
    for writer in writers.values():
        writer.close()
    return tally, {name: writer.rows for name, writer in writers.items()}
