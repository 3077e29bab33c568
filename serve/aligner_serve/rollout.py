"""Following an alias while the graph runs: a version that it moves to is rolled out, or refused.

The new version must be found, fetched, verified, started and examined; until then the old one
corrects, and where any of that fails it is the old one that stays. Pure: what is done to a cluster
and a registry is done by the callables that it is made with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from aligner.errors import AlignerError
from aligner_serve.release import Release

_LONGEST_PAUSE: Final = 64
"""In looks: hashing large files again and again would be work without an end."""

Releases = Mapping[str, Release]
"""What each seat of the graph serves: an aligner's own, or its challenger's."""


Result = Literal["served", "refused", "taken_back"]
"""``refused``: it never reached the cluster; ``taken_back``: it did, and the old one stayed."""

Told = Callable[[str, Result, str], None]
"""Hears of a seat what became of the version that its alias names, and of which error it died."""


def untold(seat: str, result: Result, reason: str) -> None:
    """Do nothing."""


class Cluster(Protocol):
    """Where the graph runs."""

    def deploy(self, releases: Releases) -> None:
        """Bring the graph to ``releases``; a deployment whose release is the same is let alone.

        Raises:
            AlignerError: A version does not start, or does not pass its probe.
        """


class Registry(Protocol):
    """Where releases come from."""

    def resolve(self, seat: str) -> Release:
        """What the alias of ``seat`` names now.

        Raises:
            AlignerError: Nothing that may be served, or the registry does not answer.
        """

    def fetch(self, seat: str, release: Release) -> None:
        """Verify the files of ``release``, on this machine.

        Raises:
            AlignerError: They are gone, damaged, or do not fit the settings of ``seat``.
        """


@dataclass(slots=True)
class _Seat:
    """What is known of one alias."""

    serving: Release
    refused: Release | None = None
    """The last that failed; it is tried again only when the alias has been elsewhere."""
    said: str | None = None
    """The trouble that was told last; the same is not told twice in a row."""
    failures: int = 0
    """How often in a row the files of a version could not be had."""
    pause: int = 0
    """Looks to let pass before they are tried again: what is away may come back."""


class Rollout:
    """Follows every alias of a graph."""

    def __init__(
        self,
        serving: Releases,
        *,
        watched: tuple[str, ...],
        registry: Registry,
        cluster: Cluster,
        say: Callable[[str], None],
        told: Told = untold,
    ) -> None:
        """``serving`` runs already; those of its seats that are ``watched`` may change.

        What is decided is said in sentences and told for counting, once each.
        """
        self._seats = {name: _Seat(release) for name, release in serving.items()}
        self._watched = watched
        self._registry = registry
        self._cluster = cluster
        self._say = say
        self._told = told
        self._must_restore = False

    @property
    def serving(self) -> dict[str, Release]:
        """What corrects now."""
        return {name: seat.serving for name, seat in self._seats.items()}

    def look(self) -> bool:
        """Look at every alias once and follow it; whether another version serves afterwards.

        What goes wrong is said in a sentence, once, and never raised.
        """
        if self._must_restore:
            self._restore()
        moved = [self._follow(name, self._seats[name]) for name in self._watched]
        return any(moved)

    def _follow(self, name: str, seat: _Seat) -> bool:
        try:
            wanted = self._registry.resolve(name)
        except AlignerError as exc:
            self._refuse(name, seat, exc)
            return False
        if wanted == seat.serving:
            seat.refused, seat.said, seat.failures, seat.pause = None, None, 0, 0
            return False
        if wanted == seat.refused or not self._fetched(name, seat, wanted):
            return False
        return self._roll_out(name, seat, wanted)

    def _fetched(self, name: str, seat: _Seat, wanted: Release) -> bool:
        if seat.pause:
            seat.pause -= 1
            return False
        try:
            self._registry.fetch(name, wanted)
        except AlignerError as exc:
            seat.failures += 1
            seat.pause = min(2**seat.failures, _LONGEST_PAUSE)
            self._refuse(name, seat, exc)
            return False
        seat.said, seat.failures = None, 0
        return True

    def _roll_out(self, name: str, seat: _Seat, wanted: Release) -> bool:
        before = seat.serving
        self._say(f"{name}: rolling out {wanted.version} in place of {before.version}")
        try:
            self._cluster.deploy({**self.serving, name: wanted})
        except AlignerError as exc:
            seat.refused = wanted
            self._say(f"{name}: {wanted.version} is taken back, {before.version} stays: {exc}")
            self._told(name, "taken_back", type(exc).__name__)
            self._restore()
            return False
        seat.serving, seat.refused = wanted, None
        self._say(f"{name}: {wanted.version} corrects now")
        self._told(name, "served", "")
        return True

    def _restore(self) -> None:
        """Make what serves the cluster's aim again; what failed must not be started any more."""
        try:
            self._cluster.deploy(self.serving)
        except AlignerError as exc:
            if not self._must_restore:
                self._say(f"what served before does not come back by itself yet: {exc}")
            self._must_restore = True
            return
        self._must_restore = False

    def _refuse(self, name: str, seat: _Seat, exc: AlignerError) -> None:
        sentence = f"{name}: {seat.serving.version} stays: {exc}"
        if sentence != seat.said:
            seat.said = sentence
            self._say(sentence)
            self._told(name, "refused", type(exc).__name__)
