"""News from the training workers to the driver, which alone talks to terminal and tracking."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aligner_jobs.config.train import PhaseName


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


class Board:
    """A Ray actor: worker 0 posts without waiting, the driver takes what has come."""

    def __init__(self) -> None:
        """Begin empty."""
        self._news: list[News] = []

    def post(self, news: News) -> None:
        """Append."""
        self._news.append(news)

    def take(self) -> list[News]:
        """Everything since the last call, oldest first."""
        taken, self._news = self._news, []
        return taken
