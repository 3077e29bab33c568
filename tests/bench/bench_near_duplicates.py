"""Candidate pairs per second: a task per band that sorts, against Ray Data's own hash join.

Both find the same pairs among the same band hashes: 18 bands, 2 % of the rows agree with another
in a third of them. Ours reads a file of hashes per band; the join shuffles a row of hash and
number per band. The join yields all pairs of a group, ours a few per row: no group has more than
two rows here, so that both yield the same.

    python tests/bench/bench_near_duplicates.py [--rows 100000]
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from aligner import dedup
from aligner.shingles import Hashes
from aligner_jobs import runtime
from aligner_jobs.near_duplicates import candidates
from aligner_jobs.terminal import quiet_ray_data

BANDS = 18
BAR = 1.0


def hashes_of(rows: int) -> Hashes:
    """Rows x bands."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (rows, BANDS), dtype=np.uint64)
    half = rows // 50
    # The last rows agree with the first ones.
    agree = rng.random((half, BANDS)) < 1 / 3
    hashes[-half:] = np.where(agree, hashes[:half], hashes[-half:])
    return hashes


def ours(hashes: Hashes, folder: Path) -> tuple[float, int]:
    """Seconds and pairs."""
    start = time.perf_counter()
    paths = []
    for number, band in enumerate(hashes.T):
        paths.append(folder / str(number))
        np.ascontiguousarray(band).tofile(paths[-1])
    pairs = candidates(paths, np.zeros(len(hashes), dtype=np.bool_))
    return time.perf_counter() - start, len(pairs)


def theirs(hashes: Hashes) -> tuple[float, int]:
    """Seconds and pairs of a self-join."""
    start = time.perf_counter()
    numbers = np.arange(len(hashes))
    sides = [
        ray.data.from_arrow(
            # 63 random bits: rows agree in a band, and never in two different ones.
            [pa.table({"hash": hashes[:, band], name: numbers}) for band in range(BANDS)]
        )
        for name in ("later", "earlier")
    ]
    joined = sides[0].join(sides[1], join_type="inner", num_partitions=8, on=("hash",))
    found = []
    tables: Iterable[Any] = joined.iter_batches(batch_size=None, batch_format="pyarrow")
    for table in tables:
        part = table.filter(pc.greater(table["later"], table["earlier"]))
        columns = [part[name].to_numpy() for name in ("later", "earlier")]
        found.append(np.stack(columns, axis=1))
    return time.perf_counter() - start, len(dedup.unique_pairs(found))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    count = parser.parse_args().rows
    hashes = hashes_of(count)
    quiet_ray_data()
    with tempfile.TemporaryDirectory() as folder, runtime.ray_session():
        runtime.bound_ray_data()
        # The first turn starts worker processes.
        ours(hashes[:1000], Path(folder))
        our_s, our_pairs = ours(hashes, Path(folder))
        their_s, their_pairs = theirs(hashes)
    if our_pairs != their_pairs:
        raise SystemExit(f"{our_pairs} pairs, but {their_pairs} by the join")
    ratio = their_s / our_s
    verdict = "ok" if ratio >= BAR else "short"
    print(
        f"BENCH near_duplicate_rows_per_s {count / our_s:.0f} {count / their_s:.0f} {ratio:.2f} "
        f"{BAR} {verdict}"
    )


if __name__ == "__main__":
    main()
