import contextlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aligner import lasting_run as lasting
from aligner.adapters.memory_tracker import MemoryRun, MemoryTracker
from aligner.errors import TrackingAway, TrackingError
from aligner.lasting_run import LastingRun, lasting_run, patiently
from aligner.tracking import Run

_LONGEST_PAUSE_S = 0.05


@dataclass(slots=True)
class ShakyRun(MemoryRun):
    """Its server goes away between the look and the request, and refuses what it does not like."""

    order: list[int] = field(default_factory=list)
    cut: bool = False

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, at_ms: int | None = None
    ) -> None:
        if self.cut:
            raise TrackingAway("the connection was cut.")
        if "bad" in metrics:
            raise TrackingError("the server refused it.")
        self.order.append(step)
        MemoryRun.log_metrics(self, metrics, step=step)


class ShakyTracker(MemoryTracker):
    """Does not answer the next ``unheard`` times that it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.unheard = 0.0
        self.only = ShakyRun("run-1", "test")

    def go_away(self, times: float = math.inf) -> None:
        self.unheard = times

    def come_back(self) -> None:
        """And be asked by whoever has just been away."""
        self.unheard = 0
        time.sleep(2 * _LONGEST_PAUSE_S)

    def require_answer(self) -> None:
        if self.unheard:
            self.unheard -= 1
            raise TrackingAway("the server does not answer; start it.")

    @contextlib.contextmanager
    def run(
        self, name: str, *, parent_run_id: str | None = None, run_id: str | None = None
    ) -> Iterator[MemoryRun]:
        self.require_answer()
        yield self.only


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> ShakyTracker:
    """A tracker whose user tries again after a fiftieth of a second."""
    monkeypatch.setattr(lasting, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(lasting, "_LONGEST_PAUSE_S", _LONGEST_PAUSE_S)
    return ShakyTracker()


@pytest.fixture
def said() -> list[str]:
    """What people were told."""
    return []


@contextlib.contextmanager
def opened(
    tracker: ShakyTracker, folder: Path, said: list[str], *, patience_s: float = 60.0
) -> Iterator[LastingRun]:
    with lasting_run(
        tracker, "test", outbox=folder / "outbox", patience_s=patience_s, tell=said.append
    ) as run:
        yield run


def test_it_fits_the_seam(tracker: ShakyTracker, tmp_path: Path, said: list[str]) -> None:
    with opened(tracker, tmp_path, said) as run:
        seam: Run = run
        assert seam.run_id == "run-1"


def test_what_is_logged_while_the_server_is_away_comes_later_in_order(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    with opened(tracker, tmp_path, said) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        tracker.go_away()
        # Training must not wait: nobody would come back meanwhile.
        for step in range(2, 40):
            run.log_metrics({"loss": 1.0}, step=step)
        assert run.waiting == 38
        tracker.come_back()
        run.log_metrics({"loss": 1.0}, step=40)
        assert not run.waiting
    assert tracker.only.order == list(range(1, 41))
    assert [line.split(";")[0] for line in said] == [
        "the server does not answer",
        "the tracking server is back: all that was kept is recorded now.",
    ]
    assert not (tmp_path / "outbox").exists()


def test_a_request_that_was_cut_off_is_sent_again(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    with opened(tracker, tmp_path, said) as run:
        tracker.only.cut = True
        run.log_metrics({"loss": 1.0}, step=1)
        tracker.only.cut = False
    assert tracker.only.order == [1]


def test_it_waits_at_the_start_and_at_the_end(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    tracker.go_away(1)
    with opened(tracker, tmp_path, said) as run:
        tracker.go_away(1)
        run.set_tags({"job": "train"})
        assert not tracker.only.tags
    assert tracker.only.tags == {"job": "train"}
    assert re.search(r"Waiting for it, at most \d+ s more\.", said[0])


def test_what_nobody_took_at_the_end_is_sent_by_the_next_program(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    with (
        pytest.raises(TrackingAway, match=r"holds 2 entries .* run the same command again"),
        opened(tracker, tmp_path, said, patience_s=0.1) as run,
    ):
        tracker.go_away()
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_metrics({"loss": 1.0}, step=2)
    tracker.come_back()
    with opened(tracker, tmp_path, said) as run:
        run.log_metrics({"loss": 1.0}, step=3)
    assert tracker.only.order == [1, 2, 3]


def test_a_server_that_stays_away_at_the_start_is_the_trackers_own_sentence(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    tracker.go_away()
    with (
        pytest.raises(TrackingAway, match="does not answer; start it"),
        opened(tracker, tmp_path, said, patience_s=0.1),
    ):
        raise AssertionError("must not be reached")


def test_a_step_that_is_repeated_is_recorded_once(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    for _ in range(2):
        with opened(tracker, tmp_path, said) as run:
            for step in (1, 2, 2, 1):
                run.log_metrics({"loss": float(step)}, step=step)
    assert tracker.only.order == [1, 2]
    assert run.history() == {"loss": {1: 1.0, 2: 2.0}}


def test_what_the_server_refuses_is_told_and_does_not_hold_up_the_rest(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    with opened(tracker, tmp_path, said) as run:
        run.log_metrics({"bad": 1.0}, step=1)
        run.log_metrics({"loss": 1.0}, step=2)
    assert tracker.only.order == [2]
    assert said == ["not recorded: the server refused it."]


def test_what_finds_no_room_is_told_of(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    """The place for the outbox is taken by a file."""
    (tmp_path / "outbox").write_text("")
    with opened(tracker, tmp_path, said) as run:
        tracker.go_away()
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_metrics({"loss": 1.0}, step=2)
        tracker.come_back()
        run.log_metrics({"loss": 1.0}, step=3)
    assert tracker.only.order == [3]
    assert [line.split(": ")[-1] for line in said[1:]] == [
        "is full; what comes now is not recorded.",
        "had no room for 2 entries, which were not recorded.",
    ]


def test_trouble_inside_goes_up_and_what_waits_stays(
    tracker: ShakyTracker, tmp_path: Path, said: list[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), opened(tracker, tmp_path, said) as run:
        tracker.go_away()
        run.log_metrics({"loss": 1.0}, step=1)
        raise KeyboardInterrupt
    tracker.come_back()
    with opened(tracker, tmp_path, said):
        pass
    assert tracker.only.order == [1]


def test_other_errors_than_silence_are_not_tried_again(tracker: ShakyTracker) -> None:
    calls: list[str] = []

    def refuse() -> None:
        calls.append("asked")
        raise TrackingError("no.")

    with pytest.raises(TrackingError, match="no"):
        patiently(refuse, tracker, patience_s=5.0, tell=calls.append)
    assert calls == ["asked"]
