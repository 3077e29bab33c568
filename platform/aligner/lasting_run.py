"""A run that outlives its tracking server: what it logs is kept and sent when somebody answers.

Nothing waits in between, and nobody needs a thread: each call sends what has piled up if the
server answers, else it is tried again by a later call. Only opening and closing wait.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from aligner.errors import TrackingAway, TrackingError
from aligner.manifest import Manifest
from aligner.outbox import DatasetUse, Entry, Files, Metrics, Outbox, Params, Table, Tags, send
from aligner.tracking import Run, Tracker

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 15.0

T = TypeVar("T")
Tell = Callable[[str], None]


class LastingRun:
    """Implements :class:`aligner.tracking.Run` over one that may be away for a while.

    A number is recorded once for each step, whoever says it again: training that goes on from a
    checkpoint repeats the steps after it.
    """

    def __init__(self, run: Run, tracker: Tracker, outbox: Outbox, *, tell: Tell) -> None:
        """``tell`` says to people when the server goes away, comes back or refuses something."""
        self._run, self._tracker, self._outbox, self._tell = run, tracker, outbox, tell
        self._pause_s = 0.0
        self._again_s = float("-inf")
        self._known = {name: dict(values) for name, values in run.history().items()}

    @property
    def run_id(self) -> str:
        """Of the tracking server."""
        return self._run.run_id

    @property
    def waiting(self) -> int:
        """Entries that could not be sent yet."""
        return len(self._outbox)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings."""
        self._log(Params(params=dict(params)))

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, at_ms: int | None = None
    ) -> None:
        """Log those numbers that are new at this step."""
        new = {n: float(v) for n, v in metrics.items() if step not in self._known.get(n, ())}
        for name, value in new.items():
            self._known.setdefault(name, {})[step] = value
        if new:
            at_ms = int(time.time() * 1000) if at_ms is None else at_ms
            self._log(Metrics(metrics=new, step=step, at_ms=at_ms))

    def log_table(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Show rows."""
        self._log(Table(name=name, rows=[dict(row) for row in rows]))

    def log_artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Copy one file (or a folder's files) into the run."""
        self._log(Files(path=str(path), folder=folder))

    def log_dataset(self, manifest: Manifest, uri: str, *, context: str) -> None:
        """Name a dataset artefact as this run's output or input."""
        self._log(DatasetUse(manifest=manifest, uri=uri, context=context))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run."""
        self._log(Tags(tags=dict(tags)))

    def history(self) -> Mapping[str, Mapping[int, float]]:
        """Every number logged so far, also what waits: the server is not asked."""
        return self._known

    def flush(self) -> bool:
        """Send what waits, oldest first, unless the server was away a moment ago.

        Returns whether nothing waits any more.
        """
        while self._outbox and time.monotonic() >= self._again_s:
            if not self._sent(self._outbox.first()):
                return False
            self._outbox.take_first()
            if not self._outbox:
                self._tell("the tracking server is back: all that was kept is recorded now.")
        return not self._outbox

    def _log(self, entry: Entry) -> None:
        # What waits goes first: the server shows things in the order in which they came.
        if not self.flush() or not self._sent(entry):
            self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        lost = self._outbox.lost
        self._outbox.put(entry)
        if not lost and self._outbox.lost:
            self._tell(f"{self._outbox.folder}: is full; what comes now is not recorded.")

    def _sent(self, entry: Entry) -> bool:
        """Whether ``entry`` is dealt with: recorded, or refused for good."""
        try:
            # MLflow tries for seconds before it gives up, and nobody would be served meanwhile.
            self._tracker.require_answer()
            send(entry, self._run)
        except TrackingAway as exc:
            self._wait_longer(exc)
            return False
        except TrackingError as exc:
            self._tell(f"not recorded: {exc}")
        self._pause_s = 0.0
        return True

    def _wait_longer(self, error: TrackingAway) -> None:
        if not self._pause_s:
            self._tell(f"{error} Until then everything is kept in {self._outbox.folder}.")
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s or _FIRST_PAUSE_S)
        self._again_s = time.monotonic() + self._pause_s


@contextlib.contextmanager
def lasting_run(
    tracker: Tracker,
    name: str,
    *,
    outbox: Path,
    patience_s: float,
    tell: Tell,
    run_id: str | None = None,
    parent_run_id: str | None = None,
) -> Iterator[LastingRun]:
    """Open a run (or reopen ``run_id``) as :meth:`Tracker.run` does, waiting for the server.

    What an earlier program left in the folder ``outbox`` is sent first. At the end of the block
    everything is sent, waiting again if need be.

    Raises:
        TrackingAway: The server did not answer in time; at the end the sentence says where
            everything is kept.
    """
    with contextlib.ExitStack() as stack:
        run = patiently(
            lambda: stack.enter_context(
                tracker.run(name, run_id=run_id, parent_run_id=parent_run_id)
            ),
            tracker,
            patience_s=patience_s,
            tell=tell,
        )
        kept = Outbox(outbox)
        lasting = patiently(
            lambda: LastingRun(run, tracker, kept, tell=tell),
            tracker,
            patience_s=patience_s,
            tell=tell,
        )
        try:
            yield lasting
        except BaseException:
            lasting.flush()
            raise
        _drain(lasting, outbox, patience_s=patience_s)
        if kept.lost:
            tell(f"{outbox}: had no room for {kept.lost} entries, which were not recorded.")


def patiently(
    call: Callable[[], T], tracker: Tracker | None, *, patience_s: float, tell: Tell
) -> T:
    """``call()``, again and again for as long as the server is away, at most ``patience_s``.

    ``tracker`` is asked before each call whether the server answers; ``call`` may be one that
    makes it.
    """
    deadline = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            if tracker is not None:
                tracker.require_answer()
            return call()
        except TrackingAway as exc:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise
            if pause_s == _FIRST_PAUSE_S:
                tell(f"{exc} Waiting for it, at most {left_s:.0f} s more.")
        time.sleep(min(pause_s, left_s))
        pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)


def _drain(run: LastingRun, outbox: Path, *, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not run.flush():
        if time.monotonic() > deadline:
            raise TrackingAway(
                f"{outbox}: holds {run.waiting} entries that the tracking server did not take "
                f"in {patience_s:g} s; start it and run the same command again to send them."
            )
        time.sleep(0.2)
