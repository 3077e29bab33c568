"""What Serve is told about its transport; ``test_runtime.py`` and others run it."""

import os
import subprocess
from pathlib import Path

import pytest

from aligner_serve import haproxy
from aligner_serve.transport import fast_transport

CONFIG = """    option splice-request
frontend prometheus
    bind :9101
frontend http_frontend
    bind 10.0.0.7:8000
listen stats
  bind *:8404
"""


def test_nothing_listens_everywhere_and_nothing_is_spliced() -> None:
    assert haproxy.corrected(CONFIG).splitlines()[1::2] == [
        "    bind 127.0.0.1:9101",
        "    bind 10.0.0.7:8000",
        "  bind 127.0.0.1:8404",
    ]


def test_the_settings_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_THROUGHPUT_OPTIMIZED", "0")
    before = dict(os.environ)
    with fast_transport():
        folder = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]).parent
        assert folder.is_dir()
        assert os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "0"
    assert dict(os.environ) == before
    assert not folder.exists()


def test_gateways_of_two_graphs_share_no_ports() -> None:
    first = []
    for _ in range(2):
        with fast_transport():
            first.append(int(os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"]))
    assert abs(first[0] - first[1]) >= 20


def test_haproxy_is_started_with_a_corrected_config(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text("defaults\n    mode http\n    timeout client 1s\n" + CONFIG)
    with fast_transport():
        started = os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
        checked = subprocess.run([started, "-c", "-f", str(config)], check=False, timeout=60)
    assert checked.returncode == 0
    assert "*:" not in config.read_text()
