"""Reading a dataset artefact and tokenising it, with rows that are too long counted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from aligner import artefacts
from aligner.errors import DataError
from aligner.manifest import FunnelStep
from aligner.prompt import PromptTemplate
from aligner.records import Triple, from_columns
from aligner.splits import unit_hash
from aligner.tokens import Tokenizer, encode_example, fitness
from aligner_jobs.train.batches import Corpus


@dataclass(frozen=True, slots=True)
class Tokenised:
    """One split: its rows as tokens, and how many were too long."""

    corpus: Corpus
    funnel: FunnelStep


def read_rows(dataset: str, split: str) -> list[Triple]:
    """Rows of ``train``, ``warmup`` or ``heldout``; none where the dataset has no such folder.

    Raises:
        DataError: A file is broken or a row breaks the schema.
    """
    filesystem, path = artefacts.resolve(f"{dataset}/{split}")
    return list(_rows(filesystem, path, where=f"{dataset}/{split}"))


def tokenise(
    rows: list[Triple],
    *,
    split: str,
    template: PromptTemplate,
    tokenizer: Tokenizer,
    max_length_tokens: int,
) -> Tokenised:
    """Encode ``rows``; one of more than ``max_length_tokens`` is set aside, never cut."""
    examples = [encode_example(row, template=template, tokenizer=tokenizer) for row in rows]
    verdicts = [fitness(example, max_tokens=max_length_tokens) for example in examples]
    dropped = Counter(verdict for verdict in verdicts if verdict != "keep")
    kept = [example for example, v in zip(examples, verdicts, strict=True) if v == "keep"]
    return Tokenised(
        corpus=Corpus.of(kept),
        funnel=FunnelStep(
            step=f"{split}_length",
            rows_in=len(examples),
            rows_out=len(kept),
            dropped=dict(sorted(dropped.items())),
        ),
    )


def sample(rows: list[Triple], size: int) -> list[Triple]:
    """``size`` of ``rows`` by content hash: the same rows whatever their order."""
    return sorted(rows, key=lambda row: unit_hash(row.row_id, salt="sample"))[:size]


def _rows(filesystem: pafs.FileSystem, path: str, *, where: str) -> Iterator[Triple]:
    selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    files = [info.path for info in filesystem.get_file_info(selector)]
    for file in sorted(file for file in files if file.endswith(".parquet")):
        name = file.rsplit("/", 1)[-1]
        try:
            table = pq.read_table(file, filesystem=filesystem)
        except (OSError, pa.ArrowInvalid):
            raise DataError(f"{where}/{name}: cannot be read as Parquet; build it again.") from None
        for number, record in enumerate(table.to_pylist()):
            try:
                yield from_columns(record)
            except DataError as exc:
                raise DataError(f"{where}/{name}: row {number}: {exc}; build it again.") from None
