"""Which replica a request goes to: one of its session to the one that had the session before.

Serve's own choice is the less busy one of two. A replica that is gone or full is no home any more,
and then it is that choice again: what a session gains is speed, and nothing else depends on it.
"""

from collections import OrderedDict
from typing import Any, Final

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

PATH: Final = f"{__name__}:StickyRouter"
"""How Serve finds it."""

_MOST_SESSIONS: Final = 10_000
"""Of which it is known where they are; a session is as long as a request."""


class StickyRouter(PowerOfTwoChoicesRequestRouter):
    """Serve's router, with a memory; one lives in each process that asks the deployment."""

    def initialize_state(self, **_: Any) -> None:
        """Called by Serve at the beginning."""
        self._homes: OrderedDict[str, ReplicaID] = OrderedDict()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Called by Serve: in ranks, first to last; one that is full is passed over."""
        others = await super().choose_replicas(candidate_replicas, pending_request)
        home = self._home(pending_request.metadata if pending_request else None)
        replica = self._replicas.get(home) if home is not None else None
        return others if replica is None else [[replica], *others]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Called by Serve when a replica has taken a request."""
        if session := pending_request.metadata.session_id:
            self._homes[session] = replica_id
            self._homes.move_to_end(session)
            if len(self._homes) > _MOST_SESSIONS:
                self._homes.popitem(last=False)

    def _fulfill_next_pending_request(
        self, replica: RunningReplica, request_metadata: Any = None
    ) -> None:
        """A replica found for whoever waits longest, unless it is the home of a session."""
        if self._home(request_metadata) == replica.replica_id:
            RequestRouter._fulfill_next_pending_request(self, replica, request_metadata)
        else:
            super()._fulfill_next_pending_request(replica, request_metadata)

    def _home(self, request_metadata: Any) -> ReplicaID | None:
        return self._homes.get(request_metadata.session_id) if request_metadata else None
