"""What every program of ours tells Ray, without importing Ray: jobs and serving share it.

Neither may import the other, and both meet the same traps: settings that Ray reads from the
environment, ports, and how this code reaches the worker processes.
"""

import contextlib
import gc
import os
import random
import secrets
import socket
from pathlib import Path
from typing import Any

from aligner.errors import ConfigError

_CHECKOUT = Path(__file__).resolve().parents[2]
_ROOTS = ("platform", "jobs", "serve")

_WORKER_ENVIRONMENT = {
    # A tiny CPU model gains nothing from a thread pool per process and loses to contention.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Nothing of ours is downloaded while a program runs.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "DS_ACCELERATOR": "cpu",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_PLACES = ("AWS_ENDPOINT_URL", "AWS_REGION")
"""Where S3 is. Keys are not passed on: runtime environments are shown on dashboards and in logs."""

_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by ``ray job submit``: how such a job's workers begin is for its submitter to say, and Ray
refuses a second opinion."""


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
    places = {key: os.environ[key] for key in _PLACES if key in os.environ}
    return {**ours, **places, **dev_runtime_env().get("env_vars", {})}


def job_runtime_env() -> dict[str, Any]:
    """The ``runtime_env`` of every program: its workers' environment, and how they begin."""
    env: dict[str, Any] = {"env_vars": worker_env()}
    if _SUBMITTED not in os.environ:
        env["worker_process_setup_hook"] = f"{__name__}.{collect_rarely.__name__}"
    return env


def collect_rarely() -> None:
    """Let Python look rarely for garbage that refers to itself.

    By default it looks through all objects again and again while thousands of modules are imported
    of which none goes: a fifth of the time that torch, DeepSpeed or vLLM take to be imported.
    """
    gc.set_threshold(50_000)


def set_ray_defaults() -> None:
    """Put into this process's environment what Ray should find there; call it before Ray starts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers that a cluster starts in advance lack our environment, so that none of them is used.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # How soon Ray Train notices a finished checkpoint or a dead worker; its default is 2 s.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Explicit, because the default depends on which Ray ran before under this user.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def private_cluster(*, num_cpus: int | None = None) -> dict[str, Any]:
    """Arguments of ``ray.init`` for a cluster of one program.

    It offers at least 4 logical CPUs: an engine, its helpers and a data stage must be able to
    stand side by side even on a small machine.
    """
    return {
        # Never the one that "ray start" has left on this machine for somebody else.
        "address": "local",
        "num_cpus": num_cpus or max(4, os.cpu_count() or 1),
        "include_dashboard": False,
        # Private even with the dashboard off: Ray Train asks this port whether its run is
        # still alive, and another cluster's dashboard on the default port says it is not.
        "dashboard_port": free_port(),
    }


def free_port(among: range = range(20_000, 30_000)) -> int:
    """A free TCP port on loopback that nobody takes before it is listened on.

    By default it lies above the ports that Ray gives its workers (10002-19999), and below those
    that Ray's agents (52365) and the kernel (32768 and up) take unasked. No port is drawn twice
    by programs of ours on this machine while the one that drew it first lives.

    Raises:
        ConfigError: None of them is free.
    """
    # Not as tests are seeded: several processes would want the same ones.
    for port in random.SystemRandom().sample(among, len(among)):
        drawn = socket.socket(type=socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), drawn, socket.socket() as probe:
            # The UDP port of the same number is the sign; the system removes it with the process.
            drawn.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            drawn.detach()
            return port
    raise ConfigError(
        f"none of the ports {among.start} to {among.stop - 1} is free; end programs that hold them."
    )


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
