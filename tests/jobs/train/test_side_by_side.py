import sys
from pathlib import Path

import psutil
import pytest
from running import processes_below

from aligner_jobs.train.side_by_side import Job, Resources, next_to_start, run_side_by_side

TWO_CPUS: Resources = {"CPU": 2.0}


def job(name: str, code: str = "", *, folder: Path = Path("."), cpus: float = 1.0) -> Job:
    command = [sys.executable, "-c", code]
    return Job(name, command, folder / f"{name}.log", {"CPU": cpus})


def test_the_first_that_fits_is_next() -> None:
    large, small = job("large", cpus=2), job("small")
    assert next_to_start([large, small], [], TWO_CPUS) is large
    assert next_to_start([large, small], [{"CPU": 1.0}], TWO_CPUS) is small
    assert next_to_start([large], [{"CPU": 1.0}], TWO_CPUS) is None
    assert next_to_start([], [], TWO_CPUS) is None


def test_one_that_wants_more_than_there_is_starts_alone() -> None:
    huge = job("huge", cpus=64)
    assert next_to_start([huge], [{"CPU": 1.0}], TWO_CPUS) is None
    assert next_to_start([huge], [], TWO_CPUS) is huge


def test_two_run_at_once_and_a_failure_ends_no_other(tmp_path: Path) -> None:
    """Each of the two waits for the other's file: neither would end if they ran in turn."""
    meet = (
        "import pathlib, sys, time\n"
        "here, there = map(pathlib.Path, sys.argv[1:])\n"
        "here.touch()\n"
        "while not there.exists(): time.sleep(0.01)\n"
    )
    files = [str(tmp_path / name) for name in ("a", "b")]
    a, b = (job(name, meet, folder=tmp_path) for name in ("first", "second"))
    jobs = [
        Job(a.name, [*a.command, *files], a.log, a.needs),
        Job(b.name, [*b.command, *reversed(files)], b.log, b.needs),
        job("third", "print('said'); raise SystemExit(3)", folder=tmp_path / "new"),
    ]
    started: list[str] = []
    ended = list(
        run_side_by_side(
            jobs, {}, offers=lambda: TWO_CPUS, on_start=lambda one: started.append(one.name)
        )
    )
    assert started == ["first", "second", "third"]
    assert {one.name: one.code for one in ended} == {"first": 0, "second": 0, "third": 3}
    assert (tmp_path / "new" / "third.log").read_text() == "said\n"


def test_what_still_runs_is_ended_when_its_starter_is_interrupted(tmp_path: Path) -> None:
    forever = "import time\nwhile True: time.sleep(1)"
    jobs = [job("quick", folder=tmp_path), job("forever", forever, folder=tmp_path)]
    running = run_side_by_side(jobs, {}, offers=lambda: TWO_CPUS)
    assert next(running).name == "quick"
    children = [child for child, command in processes_below().items() if forever in command]
    assert len(children) == 1
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
