"""An S3-compatible server for the tests of jobs."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow.fs as pafs
import pytest

from aligner_jobs.runtime import free_port


@dataclass(frozen=True)
class S3Server:
    """A moto server in a process of its own; buckets and objects are its alone."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def env(self) -> Mapping[str, str]:
        """What a program needs to work on it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def filesystem(self) -> pafs.S3FileSystem:
        """The server as somebody outside the product sees it."""
        return pafs.S3FileSystem(
            access_key="test",
            secret_key="test",
            region="us-east-1",
            endpoint_override=self.endpoint,
            allow_bucket_creation=True,
            connect_timeout=60,
            request_timeout=60,
        )


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server with the empty bucket ``test``."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = S3Server(f"http://127.0.0.1:{port}", process)
    try:
        _wait_for(server)
        server.filesystem().create_dir("test")
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, and this process set up to work on it."""
    for name, value in s3_server.env.items():
        monkeypatch.setitem(os.environ, name, value)
    return s3_server


def _wait_for(server: S3Server) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{server.endpoint}/moto-api/", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    pytest.fail("the S3 server did not come up in time")
