"""Programs that run at the same time, as many as the cluster has room for."""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aligner_jobs import programs

Resources = Mapping[str, float]
"""Ray's names (CPU, GPU) and amounts."""

_POLL_S: Final = 0.2
_PATIENCE_S: Final = 120.0
"""A checkpoint of billions of parameters is brought to a disk in that time."""


@dataclass(frozen=True, slots=True)
class Job:
    """One program."""

    name: str
    command: Sequence[str]
    log: Path
    """What it prints."""
    needs: Resources


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program went."""

    name: str
    code: int
    seconds: float


def run_side_by_side(
    jobs: Sequence[Job],
    env: Mapping[str, str],
    *,
    offers: Callable[[], Resources],
    on_start: Callable[[Job], None] = lambda job: None,
) -> Generator[Ended, None, None]:
    """Run ``jobs``, yielding each as it ends; one that fails does not end the others.

    ``offers`` says what all together may use. The first job that fits beside those that run is
    started; one that wants more than there is at all is started when it is alone, since a cluster
    may grow. All that still run are ended with the generator: by SIGTERM, so that they can save.
    """
    waiting = list(jobs)
    running: dict[str, _Running] = {}
    with contextlib.ExitStack() as stack:
        try:
            while waiting or running:
                used = [one.job.needs for one in running.values()]
                while (job := next_to_start(waiting, used, offers())) is not None:
                    waiting.remove(job)
                    on_start(job)
                    own = stack.enter_context(contextlib.ExitStack())
                    running[job.name] = _Running(job, own, env)
                    used.append(job.needs)
                for name in [name for name, one in running.items() if one.code() is not None]:
                    yield running.pop(name).ended()
                time.sleep(_POLL_S)
        finally:
            _ask_to_end(list(running.values()))


def next_to_start(
    waiting: Sequence[Job], used: Sequence[Resources], offered: Resources
) -> Job | None:
    """The first of ``waiting`` that fits into what is left of ``offered``."""
    left = {
        name: amount - sum(needs.get(name, 0.0) for needs in used)
        for name, amount in offered.items()
    }
    for job in waiting:
        if not used or all(left.get(name, 0.0) >= amount for name, amount in job.needs.items()):
            return job
    return None


def _ask_to_end(running: "Sequence[_Running]") -> None:
    """All at once, and wait for them; whoever does not listen is ended by force afterwards."""
    for one in running:
        one.ask_to_end()
    deadline = time.monotonic() + _PATIENCE_S
    while any(one.code() is None for one in running) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


class _Running:
    """A job's process."""

    def __init__(self, job: Job, stack: contextlib.ExitStack, env: Mapping[str, str]) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        output = stack.enter_context(job.log.open("ab"))
        self._process = stack.enter_context(programs.running(job.command, env, output=output))
        self._stack = stack
        self._began_s = time.monotonic()
        self.job = job

    def code(self) -> int | None:
        """Exit code; ``None`` while the program runs."""
        return self._process.poll()

    def ask_to_end(self) -> None:
        """By SIGTERM."""
        self._process.terminate()

    def ended(self) -> Ended:
        """Tidy up after the program's end."""
        self._stack.close()
        seconds = time.monotonic() - self._began_s
        return Ended(self.job.name, self._process.returncode, seconds)
