"""Child programs: this project's own commands as processes that never outlive their parent."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from aligner.errors import AlignerError, ConfigError

_PACKAGE = Path(__file__).resolve().parent
_PATIENCE_S = 30.0


class ProgramFailed(AlignerError):
    """A child program said why on its own stderr; its exit code is passed on."""


def shipped_config(root: str, name: str) -> Path:
    """A YAML file that comes with the project: ``root`` is ``jobs`` or ``serve``.

    In a checkout it lies in ``<root>/configs``, in an installed wheel inside the package.
    """
    checkout = _PACKAGE.parents[1] / root / "configs" / name
    installed = _PACKAGE.parent / f"aligner_{root}" / "_configs" / name
    for path in (checkout, installed):
        if path.is_file():
            return path
    raise ConfigError(f"{name}: is not among the shipped {root} configs; reinstall the package.")


def command(name: str, config: Path, overrides: Sequence[str] = ()) -> list[str]:
    """``aligner <name> --config ... --set ...`` as an argument list for this interpreter."""
    sets = [argument for override in overrides for argument in ("--set", override)]
    return [sys.executable, "-m", "aligner_jobs.cli", name, "--config", str(config), *sets]


@contextlib.contextmanager
def running(
    arguments: Sequence[str], env: Mapping[str, str], *, output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program; when the block ends, however it ends, so does the program.

    What it prints goes to ``output``, or where our own goes.

    It gets a session of its own: Ctrl-C in the terminal reaches this process alone, which passes
    it on once. A second one would break off what the program does to leave nothing half done.
    """
    process = subprocess.Popen(
        arguments, env={**os.environ, **env}, stdout=output, stderr=output, start_new_session=True
    )
    try:
        yield process
    finally:
        _end(process)


def run(arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a program to its end.

    Raises:
        ProgramFailed: It ended with another code than 0; it has printed the reason itself.
    """
    with running(arguments, env) as process:
        code = process.wait()
    if code:
        name = arguments[arguments.index("aligner_jobs.cli") + 1]
        failure = ProgramFailed(f"aligner {name} ended with exit code {code}; see its message.")
        failure.exit_code = code if code > 0 else 2
        raise failure


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the program as Ctrl-C would, and insist when it does not end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        deadline = time.monotonic() + _PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            # Another Ctrl-C must not leave the program behind: keep waiting for what remains.
            with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
