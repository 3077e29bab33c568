"""What the rows of a dataset are like as a whole: what its gates and its report are made of."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from aligner.metrics import similarity
from aligner.records import Triple
from aligner_jobs.tables import as_triple

TEXTS: Final = ("question", "answer", "correction")

LENGTH_EDGES: Final = 2.0 ** np.arange(0, 21.5, 0.5)
"""Borders of the length histograms, in Unicode code points; longer texts count as the longest."""

SAMPLE_ROWS: Final = 1_000
"""Rows whose texts are held in memory and compared word by word, which takes milliseconds each."""

_COMPARED_CHARS: Final = 20_000
"""Comparing takes time with the square of the length: longer rows are left out of the sample."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Compared:
    """One row of the sample."""

    row: Triple
    similarity: float
    """Of answer and correction, see :func:`aligner.metrics.similarity`."""


@dataclass(slots=True)
class Profile:
    """Is shown the rows in the order of their ids; holds counts, and the texts of a sample.

    Ids are hashes of the content, so the first rows in that order are a random sample of all, and
    the same in every run.
    """

    rows: Counter[str] = field(default_factory=Counter)
    """Rows that stayed, by upstream."""
    copied: Counter[str] = field(default_factory=Counter)
    """Those of them whose correction is the answer, by upstream."""
    lengths: dict[str, Counts] = field(
        default_factory=lambda: {
            name: np.zeros(len(LENGTH_EDGES) - 1, dtype=np.int64) for name in TEXTS
        }
    )
    """Text to its histogram over :data:`LENGTH_EDGES`."""
    sample: list[Triple] = field(default_factory=list)

    def look(self, table: pa.Table) -> None:
        """Columns in: WORK_SCHEMA. Rows: those that were not dropped are counted."""
        kept = table.filter(pc.is_null(table["reason"]))
        copies = kept.filter(pc.equal(kept["answer"], kept["correction"]))
        _count(self.rows, kept["upstream"])
        _count(self.copied, copies["upstream"])
        total = np.zeros(kept.num_rows, dtype=np.int64)
        for name, counts in self.lengths.items():
            chars = pc.utf8_length(kept[name]).to_numpy().astype(np.int64)
            total += chars
            inside = np.clip(chars, LENGTH_EDGES[0], LENGTH_EDGES[-1])
            counts += np.histogram(inside, LENGTH_EDGES)[0]
        if (missing := SAMPLE_ROWS - len(self.sample)) > 0:
            short = kept.filter(pa.array(total <= _COMPARED_CHARS)).slice(0, missing)
            self.sample += [as_triple(row) for row in short.to_pylist()]

    @property
    def copy_rate(self) -> float:
        """Over all rows; 0 for none."""
        return self.copied.total() / max(1, self.rows.total())

    def compared(self) -> list[Compared]:
        """The sample with its similarities. It takes seconds: call it once."""
        return [Compared(row, similarity(row.answer, row.correction)) for row in self.sample]


def _count(counts: Counter[str], names: pa.ChunkedArray) -> None:
    for entry in names.value_counts().to_pylist():
        counts[entry["values"] or ""] += entry["counts"]
