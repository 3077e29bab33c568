"""Ray and Serve around one graph: started if need be, and ended whatever happens."""

import contextlib
import errno
import io
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aligner.errors import AlignerError, ConfigError
from aligner.runtime_env import private_cluster, set_ray_defaults, worker_env
from aligner_serve.config.graph import GraphConfig
from aligner_serve.release import Release

_APPLICATION = "aligner"
_POLL_S = 0.2


class GraphFailed(AlignerError):
    """A deployment does not start; its log says why."""


def require_free_port(host: str, port: int) -> None:
    """Look before anything starts: Serve itself would share the port with its owner.

    Raises:
        ConfigError: Somebody listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # A port that was closed a moment ago is free; one that somebody listens on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {port} on {host} is in use; end the program that listens there, "
                    "or choose another with --port."
                ) from None
            raise ConfigError(
                f"host {host!r}, port {port}: cannot be listened on ({exc.strerror or exc}); "
                "correct host or port."
            ) from None


@contextlib.contextmanager
def ray_and_serve(config: GraphConfig) -> Iterator[None]:
    """Connect to ``RAY_ADDRESS``, or start a private Ray, and start Serve in it; end both.

    Raises:
        ConfigError: Serve runs in that cluster already.
    """
    set_ray_defaults()
    # Replicas write into Ray's log folder; the terminal belongs to the command.
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation

    address = os.environ.get("RAY_ADDRESS")
    ray.init(
        **({"address": address} if address else private_cluster()),
        runtime_env={"env_vars": worker_env()},
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    started = False
    try:
        if _serve_runs():
            raise ConfigError(
                f"RAY_ADDRESS: Serve runs in the cluster at {address} already; deploy there with "
                "`serve run aligner_serve.app:build`, or unset RAY_ADDRESS."
            )
        started = True
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host=config.host, port=config.port),
        )
        yield
    finally:
        # Ray prints that a task of Serve's controller died with it, which is what was asked for.
        with contextlib.redirect_stdout(io.StringIO()):
            if started:
                serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()


def deploy(config: GraphConfig, released: Mapping[str, Release]) -> None:
    """Start the graph and wait until every deployment is healthy.

    Raises:
        GraphFailed: One of them fails, or takes longer than ``start_timeout_s``.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    from aligner_serve.app import build_with

    target = serve.RunTarget(
        target=build_with(config, released), name=_APPLICATION, route_prefix="/"
    )
    # Waiting is ours: bounded by our own limit, and interrupted by a signal.
    serve.run_many([target], wait_for_applications_running=False)
    deadline = time.monotonic() + config.start_timeout_s
    while True:
        overview = serve.status().applications[_APPLICATION]
        match overview.status:
            case ApplicationStatus.RUNNING:
                return
            case ApplicationStatus.DEPLOY_FAILED | ApplicationStatus.UNHEALTHY:
                raise GraphFailed(_why(overview))
        if time.monotonic() > deadline:
            raise GraphFailed(
                f"not every deployment is up after {config.start_timeout_s:g} s; raise "
                f"start_timeout_s, or look into {_logs()} for the cause."
            )
        time.sleep(_POLL_S)


def _serve_runs() -> bool:
    from ray import serve

    status = serve.status()
    return bool(status.proxies or status.applications)


def _why(overview: Any) -> str:
    """One sentence from Serve's report, which holds whole tracebacks."""
    failed = {
        name: deployment.message
        for name, deployment in overview.deployments.items()
        if deployment.status in ("UNHEALTHY", "DEPLOY_FAILED")
    }
    name, message = next(iter(failed.items()), ("the graph", overview.message))
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # The cause ends the traceback; what Ray adds below it speaks of its own retries.
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Mismatch)\b.*:", line)]
    reason = (errors or lines or ["it gives no reason"])[-1].rstrip(".")
    return f"{name} does not start: {reason[:500]}; look into {_logs()} for the cause."


def _logs() -> str:
    """Where Ray keeps what the replicas write, on each of its machines."""
    import ray

    root = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    return str(root / "ray" / ray.get_runtime_context().get_session_name() / "logs")
