"""The last steps of a dataset: duplicates out, mix, splits, warm-up rows, Parquet files.

Rows come in whatever order workers finish, so they are dealt out to files by their ids and sorted
file by file; everything after that is decided row by row in that order. Since an id is a hash of
the content, the order is the same in every run, and the first N rows of ``train/`` are a random
sample of it: samples of growing size nest.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from numpy.typing import NDArray

from aligner.records import TRIPLE_SCHEMA, from_columns, to_columns
from aligner.splits import split_of, unit_hash
from aligner.warmup import identity_row
from aligner_jobs.tables import (
    SET_ASIDE_SCHEMA,
    SORT_KEY,
    WORK_SCHEMA,
    PartWriter,
    Step,
    Tally,
    mark,
    mark_duplicates,
)

TRAIN: Final = "train"
HELDOUT: Final = "heldout"
WARMUP: Final = "warmup"
SET_ASIDE: Final = "set_aside"

_ROWS_PER_DEAL: Final = 16_384
"""A table is cut into 256 parts; each must be worth its place in a file."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SortedRows:
    """Rows on disk in the order of :data:`aligner_jobs.tables.SORT_KEY`, exact duplicates dropped.

    A row that is not dropped has a number, counted from 0 in that order.
    """

    files: tuple[Path, ...]
    kept: int
    """Rows that are not dropped."""

    def tables(self) -> Iterator[pa.Table]:
        """All rows, dropped ones among them, file by file."""
        for path in self.files:
            with pa.memory_map(str(path)) as mapped:
                yield pa.ipc.open_file(mapped).read_all()

    def kept_tables(self) -> Iterator[pa.Table]:
        """The rows that are not dropped, file by file."""
        for table in self.tables():
            yield table.filter(pc.is_null(table["reason"]))


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
    rows = _sorted(_dealt(tables, folder / "unsorted"), folder / "sorted")
    fates = _Fates(rows.kept)
    if find_near is not None:
        fates.drop(find_near(rows), step="duplicates", reason="near_duplicate")
    if mix:
        sources, ranks = _sources_and_ranks(rows)
        over = _over_share(sources, ranks, mix, alive=fates.alive)
        fates.drop(over, step="mix", reason="over_share")
    heldout, warmup = _splits(
        rows, fates.alive, heldout_share=heldout_share, warmup_share=warmup_share
    )
    written = _write_parts(rows, fates, heldout, warmup, folder, look)
    for path in rows.files:
        path.unlink()
    (folder / "sorted").rmdir()
    return written


# --- order ----------------------------------------------------------------------------------------


def _dealt(tables: Iterable[pa.Table], folder: Path) -> list[Path]:
    """Deal rows out to files by the first two digits of their id; the files, in order."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        files: dict[str, pa.RecordBatchFileWriter] = {}
        for table in _gathered(tables, rows=_ROWS_PER_DEAL):
            digits = pc.utf8_slice_codeunits(table["row_id"], 0, 2)
            order = pc.sort_indices(digits)
            table, digits = table.take(order), digits.take(order)
            runs = pc.run_end_encode(digits.combine_chunks())
            start = 0
            for digit, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                if digit not in files:
                    file = pa.ipc.new_file(folder / f"{digit}.arrow", WORK_SCHEMA)
                    files[digit] = stack.enter_context(file)
                files[digit].write_table(table.slice(start, end - start))
                start = end
    return sorted(folder.iterdir())


def _gathered(tables: Iterable[pa.Table], *, rows: int) -> Iterator[pa.Table]:
    """``tables``, put together until they hold ``rows`` rows or more."""
    waiting, count = list[pa.Table](), 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= rows:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, count = [], 0
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _sorted(dealt: list[Path], folder: Path) -> SortedRows:
    folder.mkdir()
    kept, last_id, files = 0, None, []
    for path in dealt:
        with pa.memory_map(str(path)) as mapped:
            table = pa.ipc.open_file(mapped).read_all()
            table = table.sort_by([(key, "ascending") for key in SORT_KEY])
        table = mark_duplicates(table, previous_id=last_id)
        last_id = table["row_id"][-1].as_py()
        kept += table["reason"].null_count
        files.append(folder / path.name)
        with pa.ipc.new_file(files[-1], WORK_SCHEMA) as file:
            file.write_table(table.combine_chunks())
        path.unlink()
    if dealt:
        dealt[0].parent.rmdir()
    return SortedRows(tuple(files), kept)


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
        return self._codes == 0

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


def _sources_and_ranks(rows: SortedRows) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    sources, ranks = [], []
    for table in rows.kept_tables():
        sources += table["source"].to_pylist()
        ranks += [unit_hash(row_id, salt="mix") for row_id in table["row_id"].to_pylist()]
    return np.array(sources, dtype=np.str_), np.array(ranks)


def _over_share(
    sources: NDArray[np.str_], ranks: NDArray[np.float64], mix: Mapping[str, float], *, alive: Mask
) -> Mask:
    """Rows too many for the shares of ``mix``: as many stay as the scarcest source permits."""
    total = sum(mix.values())
    there = {name: int((alive & (sources == name)).sum()) for name in mix}
    most = min(there[name] * total / share for name, share in mix.items() if share > 0)
    over = np.zeros(len(sources), dtype=np.bool_)
    for name, share in mix.items():
        own = np.flatnonzero(alive & (sources == name))
        own = own[np.argsort(ranks[own], kind="stable")]
        over[own[round(most * share / total) :]] = True
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
