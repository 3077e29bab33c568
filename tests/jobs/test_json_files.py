import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.errors import DataError
from aligner_jobs.raw_rows import BadRow, Record
from aligner_jobs.source_files import read_records

ROWS = [{"question": f"q{i}", "n": i, "deep": {"x": [i, "]"]}} for i in range(5)]

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=5,
)
objects = st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4)


def written(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


def values(path: str) -> list[object]:
    return [record.value for record in read_records(path) if isinstance(record, Record)]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz"])
def test_lines_are_read_plain_and_packed(tmp_path: Path, name: str) -> None:
    assert values(written(tmp_path, name, lines(ROWS))) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_an_array_is_read_plain_and_packed(tmp_path: Path, name: str, indent: int | None) -> None:
    content = "\n " + json.dumps(ROWS, indent=indent) + "\n"
    assert values(written(tmp_path, name, content.encode())) == ROWS


def test_places_are_lines_or_rows(tmp_path: Path) -> None:
    by_line = list(read_records(written(tmp_path, "a.jsonl", b"\n" + lines(ROWS))))
    assert by_line[1].where == f"{tmp_path}/a.jsonl:3"
    by_row = list(read_records(written(tmp_path, "a.json", json.dumps(ROWS).encode())))
    assert by_row[1].where == f"{tmp_path}/a.json, row 2"


@pytest.mark.parametrize("content", [lines(ROWS), json.dumps(ROWS).encode()])
def test_a_byte_order_mark_does_no_harm(tmp_path: Path, content: bytes) -> None:
    assert values(written(tmp_path, "a.json", b"\xef\xbb\xbf" + content)) == ROWS


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "broken_json"),
        (b'{"a": 1} {"b": 2}', "broken_json"),
        (b'{"a": "\xff"}', "broken_json"),
        (b"[" * 100_000, "broken_json"),
        (b"7", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
    ],
)
def test_a_bad_line_is_one_bad_row(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path, "a.jsonl", b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    assert list(read_records(path)) == [
        Record(f"{path}:1", {"a": 1}),
        BadRow(f"{path}:2", reason),
        Record(f"{path}:3", {"b": 2}),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b'[{"a": 1},\n{"b": oops}]',
        b'[{"a": 1},\n{"b": 2}',
        b'[{"a": 1}]\n{"b": 2}',
        b'[{"a": 1},\n{"b": "\xff"}]',
    ],
)
def test_a_broken_array_ends_with_its_line(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, "a.json", content)
    with pytest.raises(DataError, match=r"a\.json:[12]: .*(fix|remove)"):
        list(read_records(path))


def test_an_array_of_many_chunks_is_never_held_whole(tmp_path: Path) -> None:
    rows = [{"text": "x" * 1000, "n": i, "number": 123456789} for i in range(5000)]
    content = json.dumps(rows, indent=1).encode()
    assert len(content) > 5 << 20
    assert values(written(tmp_path, "a.json", content)) == rows


def test_a_cut_archive_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(ROWS * 100))[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read .*; check the file\.$"):
        list(read_records(str(path)))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(objects, min_size=1), array=st.booleans(), ascii_only=st.booleans())
def test_whatever_json_wrote_is_read_back(
    rows: list[dict[str, Any]], array: bool, ascii_only: bool
) -> None:
    texts = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    content = "[" + ", ".join(texts) + "]" if array else "\n".join(texts)
    with tempfile.TemporaryDirectory() as folder:
        assert values(written(Path(folder), "a.json", content.encode())) == rows


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_no_bytes_whatever_raise_anything_but_a_data_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "a.json", content)
        try:
            found = list(read_records(path))
        except DataError:
            return
    text = content.removeprefix(b"\xef\xbb\xbf")
    if not text.lstrip().startswith(b"["):
        assert len(found) == sum(1 for line in text.split(b"\n") if line.strip())
