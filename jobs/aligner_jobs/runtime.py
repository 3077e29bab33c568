"""How a program of ours meets Ray: one session, its environment, and how code reaches workers."""

import contextlib
import logging
import os
from collections.abc import Iterator

from aligner.runtime_env import (
    dev_runtime_env,
    free_port,
    private_cluster,
    set_ray_defaults,
    worker_env,
)

__all__ = ["dev_runtime_env", "free_port", "ray_session", "worker_env"]


@contextlib.contextmanager
def ray_session(*, num_cpus: int | None = None, quiet: bool = True) -> Iterator[str]:
    """Connect to the cluster named by ``RAY_ADDRESS``, or start a private one; yield its address.

    A private one offers at least 4 logical CPUs and ends with the block.
    """
    set_ray_defaults()
    import ray

    _read_settings_again()
    address = os.environ.get("RAY_ADDRESS")
    ray.init(
        **({"address": address} if address else private_cluster(num_cpus=num_cpus)),
        runtime_env={"env_vars": worker_env()},
        logging_level=logging.WARNING if quiet else logging.INFO,
        # What workers print is in Ray's own log files; here it would bury the progress bar.
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
