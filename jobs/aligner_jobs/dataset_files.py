"""The last steps of a dataset: exact duplicates out, splits, warm-up rows, Parquet files."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aligner.records import TRIPLE_SCHEMA, from_columns, to_columns
from aligner.splits import split_of
from aligner.warmup import chosen_ids, identity_row
from aligner_jobs.tables import (
    SET_ASIDE_SCHEMA,
    SORT_KEY,
    WORK_SCHEMA,
    PartWriter,
    Tally,
    mark_duplicates,
)

TRAIN: Final = "train"
HELDOUT: Final = "heldout"
WARMUP: Final = "warmup"
SET_ASIDE: Final = "set_aside"


def write(
    tables: Iterable[pa.Table], folder: Path, *, heldout_share: float, warmup_share: float
) -> tuple[Tally, dict[str, int]]:
    """Write the four folders of a dataset from the rows of ``tables``, which may come in any order.

    Returns how the rows fared and the rows of each folder. Memory holds no more than a 256th of
    the rows and the ids of those to train on; the rest waits on disk in ``folder``.
    """
    tally, train_ids, last_id = Tally(), list[str](), None
    writers = {name: PartWriter(folder / name, TRIPLE_SCHEMA) for name in (TRAIN, HELDOUT)}
    aside = PartWriter(folder / SET_ASIDE, SET_ASIDE_SCHEMA)
    for table in _sorted(tables, folder / "unsorted"):
        marked = mark_duplicates(table, previous_id=last_id)
        last_id = marked["row_id"][-1].as_py()
        tally.add(marked)
        is_kept = pc.is_null(marked["reason"])
        aside.write(marked.filter(pc.invert(is_kept)))
        kept = marked.filter(is_kept)
        ids = kept["question_id"].to_pylist()
        is_heldout = pa.array(
            [
                split_of(question_id, heldout_share=heldout_share) == "heldout"
                for question_id in ids
            ],
            pa.bool_(),
        )
        writers[HELDOUT].write(kept.filter(is_heldout))
        train = kept.filter(pc.invert(is_heldout))
        writers[TRAIN].write(train)
        train_ids += train["row_id"].to_pylist()
    files = writers[TRAIN].close()
    writers[HELDOUT].close()
    aside.close()
    warmup = _write_warmup(files, folder, chosen_ids(train_ids, share=warmup_share))
    return tally, {
        TRAIN: writers[TRAIN].rows,
        HELDOUT: writers[HELDOUT].rows,
        WARMUP: warmup,
        SET_ASIDE: aside.rows,
    }


def _sorted(tables: Iterable[pa.Table], folder: Path) -> Iterator[pa.Table]:
    """The rows of ``tables`` in the order of :data:`aligner_jobs.tables.SORT_KEY`.

    They are dealt out to files by the first two digits of their id, then sorted file by file.
    """
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        files: dict[str, pa.RecordBatchFileWriter] = {}
        for table in tables:
            digits = pc.utf8_slice_codeunits(table["row_id"], 0, 2)
            for digit in pc.unique(digits).to_pylist():
                if digit not in files:
                    file = pa.ipc.new_file(folder / f"{digit}.arrow", WORK_SCHEMA)
                    files[digit] = stack.enter_context(file)
                files[digit].write_table(table.filter(pc.equal(digits, digit)))
    for path in sorted(folder.iterdir()):
        with pa.memory_map(str(path)) as mapped:
            yield (
                pa.ipc.open_file(mapped)
                .read_all()
                .sort_by([(key, "ascending") for key in SORT_KEY])
            )
        path.unlink()
    folder.rmdir()


def _write_warmup(train: list[Path], folder: Path, chosen: frozenset[str]) -> int:
    writer = PartWriter(folder / WARMUP, TRIPLE_SCHEMA)
    wanted = pa.array(sorted(chosen), pa.string())
    for path in train:
        table = pq.read_table(path)
        rows = table.filter(pc.is_in(table["row_id"], wanted)).to_pylist()
        identity = [to_columns(identity_row(from_columns(row))) for row in rows]
        writer.write(pa.Table.from_pylist(identity, schema=TRIPLE_SCHEMA))
    writer.close()
    return writer.rows
