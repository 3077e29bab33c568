"""Rows as tokens: what Ray Data's tasks do with one row group of the dataset at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, assert_never

import pyarrow as pa

from aligner.adapters.hf_tokenizer import HfTokenizer, TokenizerFiles, open_files_once
from aligner.errors import DataError
from aligner.packing import read_packs
from aligner.prompt import PromptTemplate
from aligner.records import Triple
from aligner.tokens import Example, encode_example, encode_question, fitness
from aligner_jobs.config.objective import (
    CorrectionObjective,
    DpoObjective,
    Objective,
    SftObjective,
)
from aligner_jobs.train.corpus import BLOCK_SCHEMA
from aligner_jobs.train.shards import Piece, triples

Work = Callable[[Piece], Iterator[pa.Table]]
"""Tables of :data:`BLOCK_SCHEMA` in the order of the piece's rows."""
Spread = Callable[[Work, Sequence[Piece]], list[tuple[Any, pa.Table]]]
"""Does the work on each piece, wherever it likes. Each table, or Ray's reference to it, comes in
order and with its columns but the tokens."""

_ROWS_PER_TABLE: Final = 1_000
_PACKS_PER_TABLE: Final = 200
_INDEX: Final = [name for name in BLOCK_SCHEMA.names if name != "input_ids"]


@dataclass(frozen=True, slots=True)
class EncodeRows:
    """Tokenises the rows of a split; one that does not fit is set aside, never cut."""

    tokenizer: TokenizerFiles
    template: PromptTemplate
    objective: Objective
    max_tokens: int

    def __call__(self, piece: Piece) -> Iterator[pa.Table]:
        """See :data:`Work`."""
        rows = triples(piece)
        while some := list(islice(rows, _ROWS_PER_TABLE)):
            yield self.table(some)

    def table(self, rows: Iterable[Triple]) -> pa.Table:
        """``rows`` as one table."""
        tokenizer = open_files_once(self.tokenizer)
        return block(
            (row.row_id, *self._judged(documents(row, self, tokenizer), row)) for row in rows
        )

    def _judged(self, found: list[Example], row: Triple) -> tuple[str, list[Example]]:
        if isinstance(self.objective, DpoObjective) and row.is_identity:
            return "identity", []
        # The documents of a row are trained on together.
        whole = sum(len(one) for one in found)
        if whole > self.max_tokens:
            return "too_long", []
        verdicts = {fitness(one, max_tokens=self.max_tokens) for one in found} - {"keep"}
        return (verdicts.pop(), []) if verdicts else ("keep", found)


@dataclass(frozen=True, slots=True)
class UnpackRows:
    """Takes rows that build-dataset has tokenised and packed already."""

    max_tokens: int

    def __call__(self, piece: Piece) -> Iterator[pa.Table]:
        """See :data:`Work`."""
        for packs in piece.read().to_batches(max_chunksize=_PACKS_PER_TABLE):
            yield block(
                (row_id, fitness(one, max_tokens=self.max_tokens), [one])
                for pack in read_packs(pa.Table.from_batches([packs]))
                for row_id, one in zip(pack.row_ids, pack.examples(), strict=True)
            )


def documents(row: Triple, work: EncodeRows, tokenizer: HfTokenizer) -> list[Example]:
    """One document of a row, or the chosen and the rejected one."""
    objective = work.objective
    match objective:
        case CorrectionObjective():
            return [encode_example(row, template=work.template, tokenizer=tokenizer)]
        case SftObjective():
            return [_reply(row, row.correction, objective.question_prompt, work, tokenizer)]
        case DpoObjective():
            return [
                _reply(row, text, objective.question_prompt, work, tokenizer)
                for text in (row.correction, row.answer)
            ]
        case _:
            assert_never(objective)


def _reply(
    row: Triple, text: str, question_prompt: str, work: EncodeRows, tokenizer: HfTokenizer
) -> Example:
    """``text`` as the reply to the question alone."""
    prompt_ids = encode_question(
        row.question,
        row.history,
        question_prompt=question_prompt,
        template=work.template,
        tokenizer=tokenizer,
    )
    return Example(
        prompt_ids=prompt_ids,
        target_ids=[*tokenizer.encode(text), tokenizer.eos_token_id],
    )


def in_this_process(work: Work, pieces: Sequence[Piece]) -> list[tuple[Any, pa.Table]]:
    """A :data:`Spread` for little data."""
    tables = [table for piece in pieces for table in work(piece)]
    return [(table, table.select(_INDEX)) for table in tables]


def through_ray_data(work: Work, pieces: Sequence[Piece]) -> list[tuple[Any, pa.Table]]:
    """A :data:`Spread` over the cluster: blocks stay in Ray's object store, or on its disks.

    Raises:
        DataError: A file is broken.
    """
    if not pieces:
        return []
    import ray
    import ray.data

    def encoded(batch: pa.Table) -> Iterator[pa.Table]:
        for number in batch["piece"].to_pylist():
            yield from work(shared[number])

    shared = list(pieces)
    dataset = ray.data.from_items(
        [{"piece": number} for number in range(len(shared))], override_num_blocks=len(shared)
    )
    dataset.context.execution_options.preserve_order = True
    try:
        done = dataset.map_batches(encoded, batch_size=1, batch_format="pyarrow").materialize()
        blocks = done.to_arrow_refs()
        index = ray.remote(_index)
        return list(zip(blocks, ray.get([index.remote(block) for block in blocks]), strict=True))
    except ray.exceptions.RayTaskError as exc:
        raise (exc.cause if isinstance(exc.cause, DataError) else exc) from None


def _index(table: pa.Table) -> pa.Table:
    return table.select(_INDEX)


def block(rows: Iterable[tuple[str, str, list[Example]]]) -> pa.Table:
    """A table of :data:`BLOCK_SCHEMA` from id, verdict and documents of each row."""
    made = [
        (
            row_id,
            verdict,
            [len(one) for one in found] if verdict == "keep" else [],
            [len(one.prompt_ids) for one in found] if verdict == "keep" else [],
            [token for one in found for token in one.input_ids] if verdict == "keep" else [],
        )
        for row_id, verdict, found in rows
    ]
    columns = zip(*made, strict=True) if made else [()] * len(BLOCK_SCHEMA)
    arrays = [
        pa.array(column, kind.type) for column, kind in zip(columns, BLOCK_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=BLOCK_SCHEMA)
