"""Ray and Serve around one graph: started if need be, and ended whatever happens."""

import contextlib
import errno
import io
import logging
import math
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aligner.errors import AlignerError, ConfigError
from aligner.runtime_env import job_runtime_env, private_cluster, set_ray_defaults
from aligner_serve.config.graph import GraphConfig
from aligner_serve.probe import Probe
from aligner_serve.rollout import Releases
from aligner_serve.transport import fast_transport

_APPLICATION = "aligner"
_POLL_S = 0.2
_RAISED = re.compile(r"[\w.]+(Error|Exception|Mismatch|Refused)\b.*:")


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
    # How far /metrics lags behind; Ray's default is 10 s, and what a killed process had not
    # reported is not counted.
    os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.nullcontext() if address else fast_transport():
        import ray
        from ray import serve

        ray.init(
            **({"address": address} if address else private_cluster(num_cpus=room(config))),
            runtime_env=job_runtime_env(),
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        started = False
        try:
            if _serve_runs():
                raise ConfigError(
                    f"RAY_ADDRESS: Serve runs in the cluster at {address} already; deploy there "
                    "with `serve run aligner_serve.app:build`, or unset RAY_ADDRESS."
                )
            started = True
            _start_serve(config)
            yield
        finally:
            # Ray prints that a task of Serve's controller died with it, which was asked for.
            with contextlib.redirect_stdout(io.StringIO()):
                if started:
                    serve.shutdown()  # type: ignore[no-untyped-call]
                ray.shutdown()


def _start_serve(config: GraphConfig) -> None:
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.config import HTTPOptions, ProxyLocation

    try:
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host=config.host, port=config.port),
            # The gateway writes a line for each request, with its outcome.
            logging_config={"encoding": "JSON", "enable_access_log": False},
        )
    except (RayError, TimeoutError) as exc:
        raise GraphFailed(
            f"Serve does not open {config.host}:{config.port} ({type(exc).__name__}); try again "
            f"when the machine is less busy, or look into {_logs()} for the cause."
        ) from exc


def room(config: GraphConfig) -> int:
    """Logical CPUs for every replica that may be and, during an update, for its successor."""
    scalings = [config.gateway]
    scalings += [each.scaling for each in config.upstreams.values() if each.scaling is not None]
    scalings += [config.aligners[seat.aligner].scaling for seat in config.seats.values()]
    reserved = sum(scaling.max_replicas * scaling.num_cpus for scaling in scalings)
    return max(4, os.cpu_count() or 1, math.ceil(2 * reserved))


class Cluster:
    """Serve in this cluster, with the graph in it."""

    def __init__(
        self,
        build: Callable[[Releases], Any],
        *,
        timeout_s: float,
        drain_s: float = 0.0,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """``build`` makes the application that serves some releases; ``stopped`` ends waiting.

        A replica may take ``timeout_s`` to start, and one that goes ``drain_s`` to end.
        """
        self._build = build
        self._timeout_s = timeout_s
        self._drain_s = drain_s
        self._stopped = stopped
        self._running = False

    def deploy(self, releases: Releases) -> None:
        """Bring the graph to ``releases``; return when every deployment is there and healthy.

        Replicas that serve what they should are let alone; others go when their successors are
        up, and where those do not come up they stay.

        Raises:
            GraphFailed: A deployment fails, or takes too long.
            KeyboardInterrupt: The program was asked to stop meanwhile.
        """
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException
        from ray.serve.schema import ApplicationStatus

        target = serve.RunTarget(target=self._build(releases), name=_APPLICATION, route_prefix="/")
        try:
            # Waiting is ours: bounded by our own limit, and interrupted by a signal.
            serve.run_many([target], wait_for_applications_running=False)
        except (RayError, RayServeException, TimeoutError) as exc:
            raise GraphFailed(
                f"Serve does not take the graph ({type(exc).__name__}); look into {_logs()} for "
                "the cause."
            ) from exc
        # Whoever is replaced finishes what it has begun, and is waited for.
        patience_s = self._timeout_s + (self._drain_s if self._running else 0.0)
        until = time.monotonic() + patience_s
        while (overview := _overview()) is None or overview.status != ApplicationStatus.RUNNING:
            if overview is not None and (failed := _given_up(overview)):
                raise GraphFailed(failed)
            if self._stopped():
                raise KeyboardInterrupt
            if time.monotonic() > until:
                raise GraphFailed(
                    f"not every deployment is up after {patience_s:g} s; raise "
                    f"start_timeout_s, give it room for two versions at once, or look into "
                    f"{_logs()} for the cause."
                )
            time.sleep(_POLL_S)
        self._running = True


def cluster(
    config: GraphConfig, probes: Mapping[str, Probe], *, stopped: Callable[[], bool]
) -> Cluster:
    """The cluster in which ``config``'s graph is deployed."""
    from aligner_serve.app import build_with

    def build(releases: Releases) -> Any:
        return build_with(config, releases, probes)

    return Cluster(build, timeout_s=config.start_timeout_s, drain_s=config.drain_s, stopped=stopped)


def _overview() -> Any:
    """Serve's report on the graph; ``None`` while its controller is being started again."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        return serve.status().applications.get(_APPLICATION)
    except (RayError, RayServeException):
        return None


def _serve_runs() -> bool:
    from ray import serve

    status = serve.status()
    return bool(status.proxies or status.applications)


def _given_up(overview: Any) -> str | None:
    """One sentence on the deployment that Serve no longer tries to start; ``None``: there is none.

    A replica that has died meanwhile makes its deployment unhealthy, too, but is replaced. What is
    said of deployments while the graph counts as deploying may still be about what it was before.
    """
    if overview.status == "DEPLOYING":
        return None
    for name, deployment in overview.deployments.items():
        if (
            deployment.status in ("UNHEALTHY", "DEPLOY_FAILED")
            and "failed to start" in deployment.message
        ):
            return f"{name} does not start: {_cause(deployment.message)}"
    return None


def _cause(message: str) -> str:
    """The end of Serve's report, which holds whole tracebacks."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # The cause ends the traceback; what Ray adds below it speaks of its own retries.
    errors = [line for line in lines if _RAISED.match(line)]
    reason = (errors or lines)[-1].rstrip(".")
    return f"{reason[:500]}; look into {_logs()} for the cause."


def _logs() -> str:
    """Where Ray keeps what the replicas write, on each of its machines."""
    import ray

    root = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    return str(root / "ray" / ray.get_runtime_context().get_session_name() / "logs")
