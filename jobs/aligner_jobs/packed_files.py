"""The packs of a dataset: its rows tokenised on all cores and put together up to a token budget."""

import functools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from aligner.adapters.hf_tokenizer import (
    HfTokenizer,
    TokenizerFiles,
    hash_files,
    open_files_once,
    read_files,
)
from aligner.packing import PACK_SCHEMA, WINDOW_ROWS, Document, pack, to_table
from aligner.prompt import PromptTemplate
from aligner.records import from_columns
from aligner.tokens import Tokenizer, encode_example
from aligner_jobs import hub
from aligner_jobs.config.output import Packing
from aligner_jobs.dataset_files import HELDOUT, TRAIN, WARMUP
from aligner_jobs.tables import PartWriter

PACKED: Final = "packed"

_WINDOWS_PER_TASK: Final = 5
"""Some seconds of work. The rows of a dataset's file are a multiple of it, so that no window
spans two files."""
_PACKS_PER_FILE: Final = 5_000
"""At 2,048 tokens, 40 MB in memory."""
_COLUMNS: Final = ["row_id", "question", "answer", "correction", "history"]


@dataclass(slots=True)
class Packs:
    """What became of one split's rows."""

    documents: int = 0
    """Rows that were packed."""
    packs: int = 0
    tokens: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)
    """Reason to rows that could not be packed."""

    def add(self, other: "Packs") -> None:
        """Count ``other``'s rows, too."""
        self.documents += other.documents
        self.packs += other.packs
        self.tokens += other.tokens
        self.set_aside += other.set_aside

    def facts(self, *, max_tokens: int) -> dict[str, Any]:
        """For the manifest."""
        room = self.packs * max_tokens
        return {
            "documents": self.documents,
            "packs": self.packs,
            "tokens": self.tokens,
            "fill_rate": round(self.tokens / room, 4) if room else 0.0,
            "set_aside": dict(sorted(self.set_aside.items())),
        }


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of some windows in a row."""

    rows: pa.Table
    first_window: int


Done = tuple[pa.Table, Packs]
Work = Callable[[Chunk], Done]
Spread = Callable[[Work, Iterable[Chunk]], Iterator[Done]]
"""Does the work on each chunk, wherever it likes; results come in the chunks' order."""


def tokenizer_files(config: Packing) -> TokenizerFiles:
    """The files of the tokenizer that ``config`` names.

    Raises:
        DataError: There is no such tokenizer, or it has no EOS.
    """
    patterns = ("*.json",)
    folder = hub.local_folder(config.tokenizer, key="packing.tokenizer", patterns=patterns)
    HfTokenizer.load(folder)
    return read_files(folder)


def write_packs(
    dataset: Path,
    *,
    config: Packing,
    files: TokenizerFiles,
    template: PromptTemplate,
    spread: Spread,
) -> dict[str, Any]:
    """Write ``packed/`` beside the splits in the folder ``dataset``; the manifest's facts about it.

    The same rows give the same bytes, however they are spread.
    """
    work = functools.partial(
        pack_chunk, files=files, template=template, max_tokens=config.max_tokens
    )
    splits = {}
    for split in (TRAIN, HELDOUT, WARMUP):
        folder, total = dataset / PACKED / split, Packs()
        writer = PartWriter(folder, PACK_SCHEMA, rows_per_file=_PACKS_PER_FILE)
        for table, packs in spread(work, _chunks(dataset / split)):
            writer.write(table)
            total.add(packs)
        writer.close()
        splits[split] = total.facts(max_tokens=config.max_tokens)
    return {
        "tokenizer": config.tokenizer,
        "tokenizer_hash": hash_files(files),
        "max_tokens": config.max_tokens,
        "splits": splits,
    }


def pack_chunk(
    chunk: Chunk, *, files: TokenizerFiles, template: PromptTemplate, max_tokens: int
) -> Done:
    """Columns out: :data:`PACK_SCHEMA`. Rows: the packs of the chunk's windows, in order."""
    tokenizer = open_files_once(files)
    packs, found = [], Packs()
    for number, start in enumerate(range(0, chunk.rows.num_rows, WINDOW_ROWS)):
        documents = _documents(chunk.rows.slice(start, WINDOW_ROWS), template, tokenizer)
        done = pack(documents, max_tokens=max_tokens, window=chunk.first_window + number)
        packs += done.packs
        found.set_aside += done.set_aside
    found.packs = len(packs)
    found.documents = sum(len(one.row_ids) for one in packs)
    found.tokens = sum(len(one.input_ids_T) for one in packs)
    return to_table(packs), found


def on_all_cores(work: Work, chunks: Iterable[Chunk]) -> Iterator[Done]:
    """A :data:`Spread` over Ray's tasks: two for each core are under way or waiting to be read."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    at_most = 2 * int(resources["CPU"])
    # The tokenizer travels once, not with each chunk.
    shared = ray.put(work)
    run = ray.remote(_run)
    under_way: deque[Any] = deque()
    for chunk in chunks:
        if len(under_way) == at_most:
            yield ray.get(under_way.popleft())
        under_way.append(run.remote(shared, chunk))
    while under_way:
        yield ray.get(under_way.popleft())


def _run(work: Work, chunk: Chunk) -> Done:
    return work(chunk)


def _chunks(folder: Path) -> Iterator[Chunk]:
    window = 0
    for path in sorted(folder.iterdir()):
        with pq.ParquetFile(path) as file:
            size = _WINDOWS_PER_TASK * WINDOW_ROWS
            for batch in file.iter_batches(batch_size=size, columns=_COLUMNS):
                yield Chunk(pa.Table.from_batches([batch]), window)
                window += -(-batch.num_rows // WINDOW_ROWS)


def _documents(rows: pa.Table, template: PromptTemplate, tokenizer: Tokenizer) -> list[Document]:
    return [
        Document(
            row["row_id"],
            encode_example(from_columns(row), template=template, tokenizer=tokenizer),
        )
        for row in rows.to_pylist()
    ]
