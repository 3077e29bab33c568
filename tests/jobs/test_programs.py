import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from aligner.errors import ConfigError
from aligner_jobs import programs

PATIENT = """
import time
print("up", flush=True)
time.sleep(600)
"""

STUBBORN = f"""
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
{PATIENT}
"""


@contextmanager
def up(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program within whose block it has said a line: a signal now meets ``code``, not Python."""
    read, write = os.pipe()
    with (
        open(read, "rb") as heard,
        open(write, "wb") as said,
        programs.running([sys.executable, "-c", code], {}, output=said) as process,
    ):
        assert heard.readline() == b"up\n"
        yield process


def test_a_program_ends_with_its_block() -> None:
    with up(PATIENT) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGINT


def test_a_program_that_ignores_the_wish_to_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_PATIENCE_S", 0.5)
    with up(STUBBORN) as process:
        pass
    # Its end may be slower to come than that patience, which is shorter than a user's.
    assert process.wait() == -signal.SIGKILL


PARENT = """
import sys, time
from aligner_jobs import programs, runtime
child = [sys.executable, "-c", "import time; time.sleep(600)"]
with runtime.sigterm_as_interrupt(), programs.running(child, {}):
    print("up", flush=True)
    time.sleep(600)
"""


def test_an_interrupted_parent_leaves_no_child() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.send_signal(signal.SIGTERM)
    parent.wait(timeout=120)
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_an_exit_code_is_passed_on() -> None:
    with pytest.raises(programs.ProgramFailed, match="exit code 2") as caught:
        programs.run([sys.executable, "-m", "aligner_jobs.cli", "train", "--wrong"], {})
    assert caught.value.exit_code == 2


def test_an_unknown_shipped_config_is_named() -> None:
    with pytest.raises(ConfigError, match=r"train/huge\.yaml: is not among the shipped jobs"):
        programs.shipped_config("jobs", "train/huge.yaml")


def test_overrides_become_arguments() -> None:
    arguments = programs.command("train", Path("a.yaml"), ("x=1", "y=2"))
    assert arguments[1:] == [
        *("-m", "aligner_jobs.cli", "train", "--config", "a.yaml"),
        *("--set", "x=1", "--set", "y=2"),
    ]
