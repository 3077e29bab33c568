"""What ends training early: a loss that is no number, one that runs away, one that falls no more.

All of it is plain arithmetic on numbers that every worker has, so that all of them decide alike.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from aligner.errors import TrainingError
from aligner_jobs.config.measuring import EarlyStop, Guard
from aligner_jobs.config.train import PhaseName, TrainConfig

_RECENT: Final = 50
_ENOUGH: Final = 5
"""Readings without which there is no usual loss."""
_MARGIN: Final = 0.5
"""Nats per token; where the loss is close to 0, several times its size mean little."""


def require_number(
    value: float, phase: PhaseName, step: int, *, config: TrainConfig, what: str = "loss"
) -> None:
    """Raise :class:`TrainingError` where ``value`` is no number: nothing good can follow."""
    if not math.isfinite(value):
        raise TrainingError(
            f"{phase} phase, step {step}: the {what} is {value}; lower {phase}.learning_rate "
            f"(now {config.phase(phase).learning_rate:g}) and start again."
        )


class LossGuard:
    """Watches the training loss of one phase, reading by reading."""

    def __init__(self, phase: PhaseName, config: TrainConfig) -> None:
        """Know nothing yet: the phases' losses have nothing to do with one another."""
        self._phase, self._config = phase, config
        self._settings: Guard | None = config.guard
        self._usual: deque[float] = deque(maxlen=_RECENT)
        self._spikes = 0

    def hear(self, loss: float, step: int) -> None:
        """Take one reading into account.

        Raises:
            TrainingError: It is no number, or one of too many spikes in a row.
        """
        require_number(loss, self._phase, step, config=self._config)
        if self._settings is None or not self._is_spike(loss, self._settings):
            self._usual.append(loss)
            self._spikes = 0
            return
        # Not among the usual ones: spikes must not make further spikes look ordinary.
        self._spikes += 1
        if self._spikes >= self._settings.spikes:
            raise TrainingError(
                f"{self._phase} phase, step {step}: the loss has run away, {loss:.3g} where "
                f"{statistics.median(self._usual):.3g} was usual, {self._spikes} readings in a "
                f"row; lower {self._phase}.learning_rate (now "
                f"{self._config.phase(self._phase).learning_rate:g}) and start again, or go on "
                "regardless with guard=null."
            )

    def _is_spike(self, loss: float, settings: Guard) -> bool:
        if len(self._usual) < _ENOUGH:
            return False
        usual = statistics.median(self._usual)
        return loss > max(settings.spike_factor * usual, usual + _MARGIN)


@dataclass(frozen=True, slots=True)
class Best:
    """The best held-out loss of the correction phase so far."""

    loss: float = math.inf
    step: int = 0
    since: int = 0
    """Evaluations after it."""
    heard: int = 0
    """Step of the last evaluation of all."""

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> Self:
        """The inverse of :attr:`metrics`; nothing known where they are missing."""
        if "best_heldout_loss" not in metrics:
            return cls()
        return cls(
            loss=metrics["best_heldout_loss"],
            step=int(metrics["best_heldout_step"]),
            since=int(metrics["evaluations_since_best"]),
            heard=int(metrics["last_evaluation_step"]),
        )

    @property
    def metrics(self) -> dict[str, float]:
        """As a checkpoint keeps it and people see it."""
        return {
            "best_heldout_loss": self.loss,
            "best_heldout_step": float(self.step),
            "evaluations_since_best": float(self.since),
            "last_evaluation_step": float(self.heard),
        }

    def after(self, loss: float, step: int, *, settings: EarlyStop | None) -> "Best":
        """With one more evaluation."""
        gain = settings.min_gain if settings else 0.0
        if loss < self.loss - gain:
            return Best(loss, step, heard=step)
        return Best(self.loss, self.step, self.since + 1, heard=step)

    def is_over(self, settings: EarlyStop | None) -> bool:
        """Whether patience has come to its end."""
        return settings is not None and self.since >= settings.patience
