import math
import re
from collections.abc import Sequence

import pytest

from aligner.errors import TrainingError
from aligner_jobs.config.measuring import EarlyStop, Guard
from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.guard import Best, LossGuard, require_number

CONFIG = TrainConfig(dataset="d", out="o", model=ScratchModel(kind="scratch"))
FALLING = [6.0 / step + 0.3 for step in range(1, 41)]


def stopped_at(losses: Sequence[float], *, guard: Guard | None = CONFIG.guard) -> int | None:
    """The reading that ends the run."""
    watching = LossGuard("correction", CONFIG.model_copy(update={"guard": guard}))
    for at, loss in enumerate(losses):
        try:
            watching.hear(loss, at)
        except TrainingError:
            return at
    return None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training_with_a_remedy(loss: float) -> None:
    require_number(3.0, "warmup", 1, config=CONFIG)
    with pytest.raises(TrainingError, match=r"step 7: the loss is (nan|inf); lower correction\."):
        LossGuard("correction", CONFIG).hear(loss, 7)
    with pytest.raises(TrainingError, match="the gradient norm is"):
        require_number(loss, "warmup", 1, config=CONFIG, what="gradient norm")


def test_a_loss_that_runs_away_ends_training_with_a_remedy() -> None:
    assert stopped_at([*FALLING, 4.0, 5.0, 6.0]) == 42
    watching = LossGuard("warmup", CONFIG)
    usual = re.escape(
        "warmup phase, step 8: the loss has run away, 9 where 1 was usual, 3 readings in a row; "
        "lower warmup.learning_rate (now 2e-05) and start again"
    )
    with pytest.raises(TrainingError, match=usual):
        for step in range(9):
            watching.hear(9.0 if step >= 6 else 1.0, step)


@pytest.mark.parametrize(
    "losses",
    [
        [*FALLING, 4.0, 5.0, 0.4, 5.0, 4.0],
        [*FALLING, *(3 * [0.9])],
        [0.01] * 40 + [0.2] * 40,
        [1.0] * 4 + [9.0] * 3,
        FALLING,
    ],
    ids=["short", "small", "close to zero", "nothing known yet", "no spike"],
)
def test_what_looks_like_a_spike_and_is_none(losses: list[float]) -> None:
    assert stopped_at(losses) is None


def test_spikes_do_not_become_usual() -> None:
    assert stopped_at([1.0] * 10 + [9.0, 9.0, 1.0] * 30 + [9.0] * 3) == 102


def test_without_a_guard_only_numbers_are_asked_for() -> None:
    assert stopped_at([*FALLING, *([50.0] * 20)], guard=None) is None
    assert stopped_at([*FALLING, math.nan], guard=None) == 40


def best_of(losses: Sequence[float], settings: EarlyStop | None) -> Best:
    """After as many evaluations as it takes to stop, else after all."""
    best = Best()
    for at, loss in enumerate(losses):
        best = Best.of(best.after(loss, 10 * at, settings=settings).metrics)
        if best.is_over(settings):
            return best
    return best


def test_patience_ends_when_the_loss_has_ceased_to_fall() -> None:
    settings = EarlyStop(patience=2)
    assert best_of([3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 0.1], settings) == Best(
        1.0, 30, since=2, heard=50
    )
    assert best_of([3.0, 2.0, 1.0], settings) == Best(1.0, 20, heard=20)
    assert best_of([3.0, 3.0, 3.0], None) == Best(3.0, 0, since=2, heard=20)


def test_a_gain_that_is_too_small_is_none() -> None:
    assert best_of([3.0, 2.95, 2.92, 0.1], EarlyStop(patience=2, min_gain=0.1)).step == 0


def test_a_checkpoint_from_before_any_evaluation_knows_no_best() -> None:
    assert Best.of({"heldout_loss": 1.0}) == Best()
