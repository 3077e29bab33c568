"""News from the training workers to the driver, which alone talks to terminal and tracking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aligner_jobs.config.train import PhaseName

Place = tuple[PhaseName, int]
"""A phase, and how many of its optimiser steps are done."""


@dataclass(frozen=True, slots=True)
class News:
    """What worker 0 says from time to time."""

    phase: PhaseName
    step: int
    """Optimiser steps of the phase that are done."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Without the phase's prefix."""
    resumed: bool = False
    """Whether this is the first word after a checkpoint was loaded."""
    samples: Sequence[Mapping[str, str | float]] = ()
    """Corrections for people, where some were made."""
    evaluated: bool = False
    """Whether it comes from beside training, where the checkpoint of this step was evaluated."""


class Board:
    """A Ray actor: worker 0 posts without waiting, the driver takes what has come."""

    def __init__(self) -> None:
        """Begin empty."""
        self._news: list[News] = []
        self._evaluations: dict[Place, Mapping[str, float]] = {}
        self._stopping = False

    def post(self, news: News) -> None:
        """Append."""
        self._news.append(news)
        if news.evaluated:
            self._evaluations[news.phase, news.step] = news.metrics

    def take(self) -> list[News]:
        """Everything since the last call, oldest first."""
        taken, self._news = self._news, []
        return taken

    def evaluations(self) -> dict[Place, Mapping[str, float]]:
        """What was found beside training; nothing where an evaluation has failed."""
        return self._evaluations

    def stop(self) -> None:
        """Let the workers save and end."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether they shall."""
        return self._stopping
