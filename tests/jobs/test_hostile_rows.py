"""Rows that were written to do harm: they pass whole, or are set aside by a named reason."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.prompt import BUILT_IN
from aligner.records import Triple
from aligner_jobs import stages
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.tables import Row, as_triple

MARKS = [
    *(template.template for template in BUILT_IN.values()),
    *("\n\nHuman:", "\n\nAssistant:", "{question}", "</s>", '"', ",", "\r", "\n"),
    *("\0", "\ud800", "\udfff", "\ufeff", "\u200f", "\u202e", "\u2066", "\u2028", "\x1a"),
]


def joined(pieces: list[str]) -> str:
    """Two halves of a character that meet are the character: JSON has no other way to write it."""
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


TEXTS = st.lists(
    st.sampled_from(MARKS) | st.text(st.characters(exclude_categories=()), max_size=5), max_size=5
).map(joined)
TRIPLES = st.builds(Triple, question=TEXTS, answer=TEXTS, correction=TEXTS, source=st.just("s"))


def is_text(row: Triple) -> bool:
    try:
        (row.question + row.answer + row.correction).encode()
    except UnicodeEncodeError:
        return False
    return True


def written(rows: list[Triple], folder: Path, format: str) -> Path:
    """``rows`` as a file; CSV has no way to write what is no text."""
    path = folder / f"rows.{format}"
    columns = ("question", "answer", "correction")
    records = [{name: getattr(row, name) for name in columns} for row in rows]
    if format == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(records)
        path.write_bytes(text.getvalue().encode("utf-8", errors="surrogatepass"))
    elif format == "parquet":
        bytes_of = {
            name: pa.array([r[name].encode("utf-8", "surrogatepass") for r in records], pa.binary())
            for name in columns
        }
        texts = {name: column.cast(pa.string(), safe=False) for name, column in bytes_of.items()}
        pq.write_table(pa.table(texts), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def through(path: Path) -> Iterator[Row]:
    """Every row as build-dataset reads, judges and stores it."""
    config = BuildDatasetConfig.model_validate(
        {
            "out": "o",
            "sources": {"s": {"kind": "qac", "path": str(path)}},
            "max_bad_share": 1.0,
            "filters": {"max_chars": 10_000_000, "drop_template_leaks": False},
        }
    ).model_dump(mode="json")
    piece = pa.Table.from_pylist([{"name": "s", "path": str(path)}])
    for table in stages.read_piece(piece, config=config):
        sink = pa.BufferOutputStream()
        pq.write_table(stages.judge(table, config=config["filters"]), sink)
        yield from pq.read_table(pa.BufferReader(sink.getvalue())).to_pylist()


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(TRIPLES, min_size=1, max_size=4))
def test_every_hostile_row_passes_whole_or_has_a_reason(
    tmp_path_factory: pytest.TempPathFactory, format: str, rows: list[Triple]
) -> None:
    found = list(through(written(rows, tmp_path_factory.mktemp("hostile"), format)))
    assert len(found) == len(rows)
    for row, given_row in zip(found, rows, strict=True):
        if row["reason"] is None:
            assert as_triple(row) == given_row
        elif not is_text(given_row):
            assert row["reason"] == "broken_unicode"
        else:
            assert row["reason"].startswith(("blank_", "whitespace_edit"))


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_two_megabytes_and_nothing_but_nuls_pass_whole(tmp_path: Path, format: str) -> None:
    """A NUL is a character like any other: nothing on the way of a row ends a text there."""
    rows = [
        Triple("q" * (2 << 20), "a \u202e" * (1 << 18), "c", source="s"),
        Triple("a\0b", "\0", "\0\0", source="s"),
    ]
    assert [as_triple(row) for row in through(written(rows, tmp_path, format))] == rows
