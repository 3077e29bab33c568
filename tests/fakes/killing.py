"""Killing a job in the midst of its work, as the kernel does when memory runs out."""

import contextlib
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from flaky_api import FlakyApi
from running import processes_below


def kill_at(
    command: Sequence[str],
    api: FlakyApi,
    *,
    paid: Iterable[int],
    env: Mapping[str, str],
    timeout_s: float = 300.0,
    due: Callable[[], bool] | None = None,
) -> None:
    """Start ``command`` once for each of ``paid``; kill it when ``api`` was paid so often.

    Or later, when it is ``due``: in between the API answers nobody, so that the job cannot come to
    its end. Without ``due`` it is killed while it asks and is answered. Only the job itself is
    killed; what it has started must notice, and is waited for.
    """
    for replies in paid:
        if due is not None:
            api.pay_at_most(replies)
        with subprocess.Popen(
            command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + timeout_s
            while api.seen().paid < replies or (due and not due()):
                if process.poll() is not None:
                    raise AssertionError(f"the job ended by itself, code {process.returncode}")
                if time.monotonic() > deadline:
                    process.kill()
                    raise AssertionError(f"{replies} replies were not paid in {timeout_s:g} s")
                time.sleep(0.05)
            kill_all(process)
        api.pay_at_most(None)


def kill_all(process: subprocess.Popen[Any]) -> None:
    """Kill a job, and wait until what it has started has noticed."""
    started = [
        child
        for child, command in processes_below(process.pid).items()
        # Ray's agents look for their node only now and then, and ask nobody anything.
        if not command.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent"))
    ]
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=180)
    if alive:
        raise AssertionError(f"still there long after the job was killed: {alive}")


def replies_kept(out: Path) -> int:
    """How many the job that builds the dataset ``out``, or did, has stored beside it."""
    file = out.with_name(f"{out.name}.replies") / "replies.sqlite"
    # It may not be there yet, or be there before its tables are.
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as replies,
    ):
        return int(replies.execute("SELECT count(*) FROM replies").fetchone()[0])
    return 0
