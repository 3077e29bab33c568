import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.errors import DataError
from aligner_jobs.raw_rows import BadRow, Record
from aligner_jobs.source_files import locate, read_records

ROWS = [{"question": f"q {n}", "answer": f"a,\n{n}"} for n in range(300)]


def packed(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content)
    if name.endswith(".zst"):
        return bytes(pa.compress(content, codec="zstd", asbytes=True))
    return content


def written(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(name, content))
    return str(path)


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=100)
    return bytes(sink.getvalue())


def values(path: str, **settings: Any) -> list[object]:
    return [item.value for item in read_records(path, **settings) if isinstance(item, Record)]


CONTENTS = {
    "json": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "csv": table(ROWS),
    "tsv": table(ROWS, "\t"),
    "parquet": parquet(ROWS),
}
NAMES = [
    *("rows.jsonl", "rows.ndjson.gz", "rows.v2.json.zst", "rows.csv", "rows.csv.gz"),
    *("rows.csv.zst", "rows.tsv", "rows.parquet"),
]


def content_of(name: str) -> bytes:
    known = next((kind for kind in ("csv", "tsv", "parquet") if f".{kind}" in name), "json")
    return CONTENTS[known]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_told_by_the_name(tmp_path: Path, name: str) -> None:
    assert values(written(tmp_path, name, content_of(name))) == ROWS


@pytest.mark.parametrize("format", CONTENTS)
def test_a_name_that_tells_nothing_needs_the_format(tmp_path: Path, format: str) -> None:
    path = written(tmp_path, "rows.txt", CONTENTS[format])
    assert values(path, format=format) == ROWS
    with pytest.raises(DataError, match=r"rows\.txt: .* set the source's format to json, csv"):
        values(path)


def test_places_in_csv_are_the_lines_where_rows_begin(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b'q,a\n1,"x\ny"\n\n2,z\n')
    assert list(read_records(path)) == [
        Record(f"{path}:2", {"q": "1", "a": "x\ny"}),
        Record(f"{path}:5", {"q": "2", "a": "z"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"1", "ragged_row"), (b"1,2,3", "ragged_row"), (b'"1"x,2', "broken_csv")],
)
def test_a_bad_row_of_csv_is_one_bad_row(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path, "a.csv", b"q,a\n1,2\n" + line + b"\n3,4\n")
    assert list(read_records(path)) == [
        Record(f"{path}:2", {"q": "1", "a": "2"}),
        BadRow(f"{path}:3", reason),
        Record(f"{path}:4", {"q": "3", "a": "4"}),
    ]


def test_bytes_of_csv_that_are_no_text_stay_in_their_row(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b"\xef\xbb\xbfq,a\n1,\xff\n2,\x00b\n")
    assert values(path) == [{"q": "1", "a": "\udcff"}, {"q": "2", "a": "\x00b"}]


def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b'q,a\n1,2\n3,"4\n5,6\n7,"8\n9"\n0,"1\n')
    assert list(read_records(path)) == [
        Record(f"{path}:2", {"q": "1", "a": "2"}),
        BadRow(f"{path}:3", "broken_csv"),
        Record(f"{path}:4", {"q": "5", "a": "6"}),
        Record(f"{path}:5", {"q": "7", "a": "8\n9"}),
        BadRow(f"{path}:7", "broken_csv"),
    ]


def test_the_search_for_a_closing_quote_ends(tmp_path: Path) -> None:
    rows = [{"q": "x" * 1000, "a": str(n)} for n in range(10_000)]
    content = table(rows).replace(b"q,a\r\n", b'q,a\r\n"oops,0\r\n', 1)
    bad, *found = read_records(written(tmp_path, "a.csv", content))
    assert isinstance(bad, BadRow)
    assert [item.value for item in found if isinstance(item, Record)] == rows


def test_a_field_of_two_megabytes_is_read(tmp_path: Path) -> None:
    long = "x" * (2 << 20)
    assert values(written(tmp_path, "a.csv", f"q\n{long}\n".encode())) == [{"q": long}]


@pytest.mark.parametrize(
    ("header", "message"), [(b"a,b,a", "names a column twice"), (b'"a"b', "column names")]
)
def test_columns_of_csv_have_names_of_their_own(
    tmp_path: Path, header: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        values(written(tmp_path, "a.csv", header + b"\n1,2,3\n"))


def test_text_of_parquet_that_is_no_text_is_one_bad_row(tmp_path: Path) -> None:
    broken = pa.array([b"good", b"\xff", b"well"], pa.binary()).cast(pa.string(), safe=False)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": broken}), path)
    assert list(read_records(str(path))) == [
        Record(f"{path}, row 1", {"q": "good"}),
        BadRow(f"{path}, row 2", "broken_unicode"),
        Record(f"{path}, row 3", {"q": "well"}),
    ]


def test_lists_of_turns_come_out_of_parquet_as_they_went_in(tmp_path: Path) -> None:
    rows = [{"conversations": [{"from": "human", "value": "Why?"}]}]
    assert values(written(tmp_path, "a.parquet", parquet(rows))) == rows


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith((".gz", ".zst"))])
def test_a_cut_archive_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = Path(written(tmp_path, name, content_of(name)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"rows\..*: cannot be read .*; check the file\.$"):
        list(read_records(str(path)))


@pytest.mark.parametrize("content", [b"", b"PAR1", CONTENTS["parquet"][:-20], b"x" * 5000])
def test_what_is_no_parquet_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read .*; check the file\.$"):
        list(read_records(written(tmp_path, "a.parquet", content)))


def test_a_folder_and_a_glob_name_their_files_in_order(tmp_path: Path) -> None:
    names = ["b.jsonl", "a.json", "c.csv.gz", "d.parquet"]
    for name in [*names, "notes.txt", ".hidden.json", "_SUCCESS", "deep/e.csv"]:
        written(tmp_path, name, b"")
    assert locate(str(tmp_path)) == [f"{tmp_path}/{name}" for name in sorted(names)]
    assert locate(str(tmp_path), "csv") == sorted([*locate(str(tmp_path)), f"{tmp_path}/notes.txt"])
    assert locate(f"{tmp_path}/*.json*") == [f"{tmp_path}/a.json", f"{tmp_path}/b.jsonl"]
    assert locate(f"{tmp_path}/**/*.csv") == [f"{tmp_path}/deep/e.csv"]
    assert locate(f"{tmp_path}/b.jsonl") == [f"{tmp_path}/b.jsonl"]


@pytest.mark.parametrize("path", ["missing.jsonl", "*.jsonl", "."])
def test_no_file_at_all_names_the_path(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match=r"no such file.*; correct the source's path"):
        locate(str(tmp_path / path))


def test_places_on_s3_are_read_like_those_of_a_disk(s3: Any) -> None:
    for name in [*NAMES, "deep/er/rows.csv", "notes.txt"]:
        with s3.filesystem().open_output_stream(f"test/sources/{name}", compression=None) as stream:
            stream.write(packed(name, content_of(name)))
    place = "s3://test/sources"
    assert locate(place) == sorted(f"{place}/{name}" for name in NAMES)
    assert locate(f"{place}/*.csv") == [f"{place}/rows.csv"]
    assert locate(f"{place}/**/*.csv") == [f"{place}/deep/er/rows.csv", f"{place}/rows.csv"]
    assert locate(f"{place}/*/er/*") == [f"{place}/deep/er/rows.csv"]
    for path in locate(place):
        assert values(path) == ROWS
    for nothing in ("s3://test/sources/none-*", "s3://test/none/*.csv", "s3://none/*.csv"):
        with pytest.raises(DataError, match=r"s3://.*: there is no such file"):
            locate(nothing)


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"q": texts, "a\n": texts}), min_size=1))
def test_whatever_csv_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    assert values(written(tmp_path_factory.mktemp("csv"), "a.csv", table(rows))) == rows


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200), name=st.sampled_from(["a.csv", "a.tsv", "a.parquet"]))
def test_no_bytes_whatever_raise_anything_but_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = written(tmp_path_factory.mktemp("bytes"), name, content)
    try:
        list(read_records(path))
    except DataError as error:
        assert str(error).startswith(path)
