"""What all workers of a job share while they ask models: kept replies, budgets, the ledger.

One process per job holds a :class:`Switchboard`, on the driver's node; each worker has a
:class:`aligner_jobs.line.Line` to it.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aligner.errors import DataError
from aligner_jobs.budget import Budget, Grant
from aligner_jobs.reply_mirror import Mirror, is_remote, local_folder
from aligner_jobs.reply_store import Counts, Replies

_SHORTEST_WAIT_S: Final = 0.05
"""What a budget lets go in this time may go at once: asking more often gains nothing."""

_LONGEST_WAIT_S: Final = 0.25
"""Budgets change while one waits: what others did not use comes free again."""


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker sends in one call."""

    look_up: list[bytes] = field(default_factory=list)
    keep: list[tuple[bytes, bytes]] = field(default_factory=list)
    failed: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Like ``keep``, but forgotten with the job: what may go better next time."""
    counts: Counts = field(default_factory=dict)
    wanted: Mapping[str, list[int]] = field(default_factory=dict)
    """By endpoint: the tokens of each request that waits to be sent, first come first."""
    settled: Mapping[str, list[tuple[Grant, int]]] = field(default_factory=dict)
    """By endpoint: what was granted before, and the tokens that were really used."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What it gets back."""

    found: Mapping[bytes, bytes]
    grants: Mapping[str, list[Grant]]
    """By endpoint: leave for the first so many of ``wanted``."""
    wait_s: float
    """How long it makes no sense to ask for the others."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one endpoint, per minute; ``None`` is none."""

    requests_per_min: int | None
    tokens_per_min: int | None


class Switchboard:
    """Answers one :class:`Post` after the other."""

    def __init__(
        self,
        limits: Mapping[str, Limits],
        replies: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budgets = {
            name: Budget(
                requests_per_min=limit.requests_per_min, tokens_per_min=limit.tokens_per_min
            )
            for name, limit in limits.items()
        }
        self._place = replies
        self._clock = clock
        self._replies: Replies | None = None
        self._mirror: Mirror | None = None
        self._failed: dict[bytes, bytes] = {}

    def open(self) -> None:
        """Open the replies. Apart from the constructor, whose errors Ray wraps beyond recognition.

        Raises:
            DataError: Another job uses them, or they cannot be read.
        """
        if not is_remote(self._place):
            self._replies = Replies(Path(self._place))
            return
        self._replies = Replies(local_folder(self._place))
        self._mirror = Mirror(self._place, self._replies)

    def close(self) -> None:
        """Let go of the replies.

        Raises:
            DataError: The last of them could not be written to their place.
        """
        replies, self._replies = self._opened, None
        with contextlib.closing(replies):
            if self._mirror is not None:
                self._mirror.close()

    def ledger(self) -> dict[str, dict[str, int]]:
        """What was counted since the folder of replies is there, over all jobs that used it."""
        return self._opened.ledger()

    def exchange(self, post: Post) -> Delivery:
        """Take in what a worker has to say, and answer it.

        Raises:
            DataError: The replies cannot be read or written any more.
        """
        if post.keep or post.counts:
            self._opened.keep(post.keep, post.counts)
            if self._mirror is not None:
                self._mirror.add(post.keep, post.counts)
        self._failed.update(post.failed)
        for name, settled in post.settled.items():
            for grant, used_tokens in settled:
                self._budgets[name].settle(grant, used_tokens)
        found = self._opened.find(post.look_up) if post.look_up else {}
        found.update((key, self._failed[key]) for key in post.look_up if key in self._failed)
        grants, wait_s = self._grants(post.wanted)
        return Delivery(found, grants, wait_s)

    @property
    def _opened(self) -> Replies:
        if self._replies is None:
            raise DataError(f"{self._place}: is closed already; run the same command again.")
        return self._replies

    def _grants(self, wanted: Mapping[str, list[int]]) -> tuple[dict[str, list[Grant]], float]:
        now, waits = self._clock(), [_LONGEST_WAIT_S]
        grants: dict[str, list[Grant]] = defaultdict(list)
        for name, requests in wanted.items():
            for tokens in requests:
                answer = self._budgets[name].grant(now, tokens)
                if not isinstance(answer, Grant):
                    waits.append(answer)
                    break
                grants[name].append(answer)
        return dict(grants), max(_SHORTEST_WAIT_S, min(waits))


class Connected:
    """A switchboard in a process of its own, as the driver sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        """For the workers, who make a line of its ``exchange``."""

    def exchange(self, post: Post) -> Delivery:
        """What a worker does over its line."""
        import ray

        delivery: Delivery = ray.get(self.actor.exchange.remote(post))
        return delivery

    def ledger(self) -> dict[str, dict[str, int]]:
        """What was counted since the folder of replies is there."""
        import ray

        ledger: dict[str, dict[str, int]] = ray.get(self.actor.ledger.remote())
        return ledger


@contextlib.contextmanager
def connected(limits: Mapping[str, Limits], replies: str) -> Iterator[Connected]:
    """Run a switchboard beside the driver, on the Ray that is there, for the length of the block.

    Raises:
        DataError: Another job uses the replies, or they cannot be read.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    # Workers have a working directory of their own.
    place = replies if is_remote(replies) else str(Path(replies).absolute())
    actor: Any = (
        ray.remote(Switchboard)
        .options(
            num_cpus=0,
            # The replies lie on this machine.
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(dict(limits), place)
    )
    ray.get(actor.open.remote())
    try:
        yield Connected(actor)
    finally:
        # Without this the folder would stay locked until Ray gets round to ending the process. If
        # that is gone already, whatever ended it is what the user must hear of.
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(actor.close.remote())
            ray.kill(actor)
