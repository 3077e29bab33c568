"""How a program of ours meets Ray: one session, its environment, and how code reaches workers."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

from aligner.runtime_env import (
    dev_runtime_env,
    free_port,
    job_runtime_env,
    private_cluster,
    set_ray_defaults,
    worker_env,
)

__all__ = [
    "bound_ray_data",
    "dev_runtime_env",
    "free_port",
    "ray_session",
    "settle_ray",
    "sigterm_as_interrupt",
    "sigterm_noticed",
    "worker_env",
]

_BLOCK_BYTES = 8 << 20
_WAITING_BYTES_PER_CPU = 64 << 20


@contextlib.contextmanager
def ray_session(*, num_cpus: int | None = None, quiet: bool = True) -> Iterator[str]:
    """Connect to the cluster named by ``RAY_ADDRESS``, or start a private one; yield its address.

    A private one offers at least 4 logical CPUs and ends with the block.
    """
    settle_ray()
    import ray

    address = os.environ.get("RAY_ADDRESS")
    ray.init(
        **({"address": address} if address else private_cluster(num_cpus=num_cpus)),
        runtime_env=job_runtime_env(),
        logging_level=logging.WARNING if quiet else logging.INFO,
        # What workers print is in Ray's own log files; here it would bury the progress bar.
        log_to_driver=not quiet,
    )
    try:
        # Ray has put a handler in place that aborts; what a job has begun must be cleaned up.
        with sigterm_as_interrupt():
            yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def settle_ray() -> None:
    """Decide what Ray takes from the environment, for this process and those it starts.

    Whoever starts a cluster by other means than ``ray_session`` calls it before that. Where a
    driver asks for tokens that its cluster does not send, tasks run, but every actor ends at once:
    its owner's refusal is taken for the owner having let go of it.
    """
    set_ray_defaults()
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # Ray has read its environment when it was imported, which may be long ago.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def bound_ray_data() -> None:
    """Make Ray Data's memory follow the cluster's cores and not the rows; call it in a session.

    By default a block grows to 128 MiB, a task holds several of them as Python objects, and
    finished ones wait for their consumer in a good part of the machine's memory.
    """
    import ray.data
    from ray.data import ExecutionResources

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = _BLOCK_BYTES
    cluster = ray.cluster_resources()  # type: ignore[no-untyped-call]
    waiting = _WAITING_BYTES_PER_CPU * cluster.get("CPU", 1)
    limits = ExecutionResources.for_limits(object_store_memory=waiting)
    context.execution_options.resource_limits = limits


@contextlib.contextmanager
def sigterm_noticed() -> Iterator[threading.Event]:
    """Let the block see the first SIGTERM as an event; a second one is what it was before."""
    noticed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noticed
        return

    def note(*_: object) -> None:
        noticed.set()
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noticed
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Make SIGTERM end the block as Ctrl-C does: with everything cleaned up on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
