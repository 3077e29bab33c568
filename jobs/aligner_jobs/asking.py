"""How the asking stages run in Ray Data, and the switchboard that those of one job share."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ray.data import ActorPoolStrategy, Dataset

from aligner_jobs.config.asking import ApiModel
from aligner_jobs.config.teaching import LocalModel
from aligner_jobs.ledger import Ledger, ledger_of
from aligner_jobs.switchboard import Connected, Limits, connected

ROWS_PER_BLOCK: Final = 32
"""Small enough that every worker has questions to ask, large enough to be worth a call."""

_CALLS: Final = 32
"""Blocks that a worker has under way. One slow reply holds up its block, so there must be many
more rows under way than requests."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the asking stages of one job meet."""

    switchboard: Connected | None
    """``None`` where nobody is asked."""
    models: Mapping[str, ApiModel | LocalModel]
    salt: str
    workers: int

    def ask(self, rows: Dataset, stage: type, **settings: Any) -> Dataset:
        """``rows`` through ``stage``, one of the asking stages, with what all of them share."""
        assert self.switchboard is not None
        shared = {"switchboard": self.switchboard.actor, "salt": self.salt}
        return ask(rows, stage, {**settings, **shared}, workers=self.workers)

    def ledger(self) -> Ledger:
        """What the models were asked for, and what it cost, since the replies are kept."""
        if self.switchboard is None:
            return {}
        return ledger_of(self.switchboard.ledger(), self.models)


def ask(rows: Dataset, stage: type, settings: Mapping[str, Any], *, workers: int) -> Dataset:
    """``rows`` through the asking stage ``stage``, started ``workers`` times with ``settings``."""
    return rows.map_batches(
        stage,
        fn_constructor_kwargs=dict(settings),
        batch_format="pyarrow",
        batch_size=None,
        compute=ActorPoolStrategy(
            size=workers,
            max_concurrent_calls_per_actor=_CALLS,
            max_tasks_in_flight_per_actor=_CALLS,
        ),
        # They mostly wait; two of them may share a core.
        num_cpus=0.5,
    )


@contextlib.contextmanager
def desk(
    models: Mapping[str, ApiModel | LocalModel], *, replies: str, salt: str, workers: int
) -> Iterator[Desk]:
    """Start what asking ``models`` needs, on the Ray that is there.

    Raises:
        DataError: The replies cannot be used.
    """
    if not models:
        yield Desk(None, models, salt, workers)
        return
    limits = {
        name: Limits(model.requests_per_min, model.tokens_per_min)
        for name, model in models.items()
        if isinstance(model, ApiModel) and model.budgeted
    }
    with connected(limits, replies) as switchboard:
        yield Desk(switchboard, models, salt, workers)
