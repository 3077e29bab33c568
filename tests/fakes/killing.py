"""Killing a job in the midst of its work, as the kernel does when memory runs out."""

import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psutil
from flaky_api import FlakyApi


def kill_at(
    command: Sequence[str],
    api: FlakyApi,
    *,
    paid: Iterable[int],
    env: Mapping[str, str],
    timeout_s: float = 300.0,
) -> None:
    """Start ``command`` once for each of ``paid`` and kill it when ``api`` was paid so often.

    Only the job itself is killed; what it has started must notice, and is waited for.
    """
    for replies in paid:
        with subprocess.Popen(
            command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + timeout_s
            while api.seen().paid < replies:
                if process.poll() is not None:
                    raise AssertionError(f"the job ended by itself, code {process.returncode}")
                if time.monotonic() > deadline:
                    raise AssertionError(f"{replies} replies were not paid in {timeout_s:g} s")
                time.sleep(0.05)
            kill_all(process)


def kill_all(process: subprocess.Popen[Any]) -> None:
    """Kill a job, and wait until what it has started has noticed."""
    started = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        # Ray's agents look for their node only now and then, and ask nobody anything.
        if "Agent" not in child.name()
    ]
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    if alive:
        names = ", ".join(one.name() for one in alive if one.is_running())
        raise AssertionError(f"still there a minute after the job was killed: {names}")
