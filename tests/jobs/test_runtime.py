import os
import pkgutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aligner.errors import ConfigError
from aligner.runtime_env import collect_rarely, job_runtime_env, private_cluster
from aligner_jobs import runtime


def test_workers_can_import_the_checkout() -> None:
    roots = [Path(root) for root in runtime.worker_env()["PYTHONPATH"].split(os.pathsep)]
    packages = ["aligner", "aligner_jobs", "aligner_serve"]
    assert all((root / name).is_dir() for root, name in zip(roots, packages, strict=True))


def test_what_the_user_has_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert runtime.worker_env()["OMP_NUM_THREADS"] == "7"


def test_workers_know_where_s3_is_and_are_sent_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, name.lower())
    told = {name: value for name, value in runtime.worker_env().items() if "AWS" in name}
    assert told == {"AWS_ENDPOINT_URL": "aws_endpoint_url", "AWS_REGION": "aws_region"}


def test_workers_begin_our_way_unless_who_submitted_the_job_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pkgutil.resolve_name(job_runtime_env()["worker_process_setup_hook"]) is collect_rarely
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert job_runtime_env() == {"env_vars": runtime.worker_env()}


def test_a_private_cluster_is_never_the_one_that_somebody_else_has_started() -> None:
    """Without an address Ray would join what ``ray start`` has left on this machine."""
    assert private_cluster()["address"] == "local"


def test_a_free_port_is_none_that_ray_or_the_kernel_takes_unasked() -> None:
    workers, agents, kernel = range(10_002, 20_000), range(52_365, 52_366), range(32_768, 65_536)
    ports = [runtime.free_port() for _ in range(50)]
    assert not [port for port in ports if port in workers or port in agents or port in kernel]


def test_a_free_port_is_none_that_somebody_listens_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"none of the ports {port} to {port} is free"):
            runtime.free_port(range(port, port + 1))


def test_no_port_is_drawn_twice_whichever_program_draws() -> None:
    among = range(29_900, 30_000)
    program = f"from aligner.runtime_env import free_port; print(free_port({among}))"
    ours = [runtime.free_port(among) for _ in range(60)]
    theirs = int(subprocess.check_output([sys.executable, "-c", program]))
    assert len({*ours, theirs}) == 61


def test_the_first_sigterm_is_noticed_and_the_second_one_interrupts() -> None:
    with runtime.sigterm_as_interrupt(), runtime.sigterm_noticed() as noticed:
        assert not noticed.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert noticed.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_sigterm_means_afterwards_what_it_meant_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with runtime.sigterm_noticed():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
