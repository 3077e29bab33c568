"""The S3 server goes away while it is read from or written to, and comes back."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outage import Relay

from aligner import artefacts
from aligner.adapters.memory_tracker import MemoryTracker
from aligner.config import validate
from aligner.prompt import PLAIN
from aligner_jobs import build_dataset
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.raw_rows import Record
from aligner_jobs.source_files import read_records

AWAY_S = float(os.environ.get("ALIGNER_TEST_OUTAGE_S", "3"))
"""Long enough for many requests to fail; the same tests pass with 20."""

ROWS = [{"n": n, "text": random.Random(n).randbytes(1000).hex()} for n in range(4000)]
"""8 MB that cannot be compressed away, so that reading takes many requests."""


COLUMNS = {"question_column": "text", "answer_column": "text", "correction_column": "text"}


@pytest.fixture
def relay(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """In front of the server, and what this process takes for it."""
    with Relay(int(s3.endpoint.rpartition(":")[2])) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
        yield relay


@contextmanager
def away(go_away: Callable[[], None], come_back: Callable[[], None]) -> Iterator[None]:
    """Gone from now, and back by itself after a while."""
    go_away()
    timer = threading.Timer(AWAY_S, come_back)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def away_after(passed_bytes: int, relay: Relay) -> Iterator[None]:
    """Gone for a while when so much has passed; no more does before, so that it is in time."""
    due = relay.hold_after(passed_bytes)

    def watch() -> None:
        due.wait()
        relay.go_away()
        time.sleep(AWAY_S)
        relay.come_back()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
        assert due.is_set(), "all was done before the server went away"
    finally:
        due.set()
        thread.join()


def put(s3: Any, name: str) -> str:
    """``ROWS`` as an object, named by its format."""
    with s3.filesystem().open_output_stream(f"test/outage/{name}", compression=None) as stream:
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(ROWS), stream, row_group_size=500)
        elif name.endswith(".csv"):
            stream.write(b"n,text\n")
            stream.write("".join(f"{row['n']},{row['text']}\n" for row in ROWS).encode())
        else:
            text = "".join(json.dumps(row) + "\n" for row in ROWS)
            stream.write(bytes(pa.compress(text.encode(), codec="gzip", asbytes=True)))
    return f"s3://test/outage/{name}"


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv", "rows.parquet"])
def test_reading_goes_on_where_it_was_when_the_server_is_back(
    s3: Any, relay: Relay, name: str
) -> None:
    records = read_records(put(s3, name))
    found = [next(records) for _ in range(100)]
    started = time.monotonic()
    with away(relay.go_away, relay.come_back):
        found += records
        assert time.monotonic() - started > AWAY_S * 0.9
    texts = [item.value["text"] for item in found if isinstance(item, Record)]
    assert texts == [row["text"] for row in ROWS]


def test_a_server_that_hangs_is_waited_for(s3: Any) -> None:
    records = read_records(put(s3, "rows.csv"))
    found = [next(records) for _ in range(100)]
    stop, go = (
        lambda: s3.process.send_signal(signal.SIGSTOP),
        lambda: s3.process.send_signal(signal.SIGCONT),
    )
    with away(stop, go):
        found += records
    assert len(found) == len(ROWS)


def test_an_upload_is_whole_when_the_server_is_back(s3: Any, relay: Relay, tmp_path: Path) -> None:
    """The server goes when a part of the upload has passed."""
    uri, filesystem = "s3://test/outage/dataset", s3.filesystem()
    contents = {f"part-{n}.bin": random.Random(n).randbytes(4 << 20) for n in range(12)}
    with artefacts.staging(uri) as stage:
        for name, content in contents.items():
            (stage.path / name).write_bytes(content)
        with away_after(6 << 20, relay):
            stage.publish(
                kind="dataset", name="n", prompt=PLAIN, prompt_fingerprint=PLAIN.fingerprint
            )
    manifest = artefacts.read_manifest(uri, kind="dataset")
    assert set(manifest.files) == set(contents)
    for name, content in contents.items():
        with filesystem.open_input_stream(f"test/outage/dataset/{name}", compression=None) as found:
            assert found.read() == content


@pytest.mark.e2e
def test_a_job_from_s3_to_s3_loses_nothing(s3: Any, relay: Relay) -> None:
    """The server goes as soon as the workers have read a part."""
    raw = {
        "out": "s3://test/outage/built",
        "sources": {"s": {"kind": "qac", "path": put(s3, "rows.jsonl.gz"), **COLUMNS}},
        "heldout_share": 0.0,
        "gates": {"max_copy_rate": 1.0},
        "replies": "replies",
    }
    config = validate(BuildDatasetConfig, raw, where="test.yaml")
    with away_after(2 << 20, relay):
        manifest = build_dataset.run(config, tracker=MemoryTracker()).manifest
    assert manifest.counts["train"] == len(ROWS)
    assert manifest.funnel[0].rows_in == manifest.funnel[-1].rows_out == len(ROWS)
