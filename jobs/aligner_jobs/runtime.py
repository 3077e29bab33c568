"""How a program of ours meets Ray: one session, its environment, and how code reaches workers."""

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[2]
_ROOTS = ("platform", "jobs", "serve")

_WORKER_ENVIRONMENT = {
    # A tiny CPU model gains nothing from a thread pool per process and loses to contention.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Nothing of ours is downloaded while a job runs.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "DS_ACCELERATOR": "cpu",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def dev_runtime_env() -> dict[str, Any]:
    """The ``runtime_env`` that lets workers import this checkout; empty for an installed wheel.

    On one machine workers read the checkout itself. On a cluster submit with ``working_dir``
    set to the checkout: the relative ``PYTHONPATH`` entries resolve where Ray unpacks it.
    """
    if not all((_CHECKOUT / root).is_dir() for root in _ROOTS):
        return {}
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(str(_CHECKOUT / root) for root in _ROOTS)}}


def worker_env() -> dict[str, str]:
    """Environment of every worker process: ours where the user has set nothing."""
    ours = {key: os.environ.get(key, value) for key, value in _WORKER_ENVIRONMENT.items()}
    if _has_gpu():
        del ours["DS_ACCELERATOR"]
    return {**ours, **dev_runtime_env().get("env_vars", {})}


@contextlib.contextmanager
def ray_session(*, num_cpus: int | None = None, quiet: bool = True) -> Iterator[str]:
    """Connect to the cluster named by ``RAY_ADDRESS``, or start a private one; yield its address.

    A private one offers at least 4 logical CPUs: an engine, its helpers and a data stage must
    be able to stand side by side even on a small machine. It ends with the block.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # How soon Ray Train notices a finished checkpoint or a dead worker; its default is 2 s.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Explicit, because the default depends on which Ray ran before under this user.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    _read_settings_again()
    runtime_env = {"env_vars": worker_env()}
    level = logging.WARNING if quiet else logging.INFO
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, runtime_env=runtime_env, logging_level=level)
    else:
        ray.init(
            num_cpus=num_cpus or max(4, os.cpu_count() or 1),
            include_dashboard=False,
            # Private even with the dashboard off: Ray Train asks this port whether its run is
            # still alive, and another cluster's dashboard on the default port says it is not.
            dashboard_port=free_port(),
            runtime_env=runtime_env,
            logging_level=level,
            log_to_driver=not quiet,
        )
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def _read_settings_again() -> None:
    """Ray reads its environment when it is imported, and a job may have imported it before."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def free_port() -> int:
    """A free TCP port on loopback, outside Ray's worker range (10002-19999)."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if not 10_002 <= port <= 19_999:
            return port


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
