"""Which replica a request goes to: one of a session to the one that had the session before.

Serve's own choice is the less busy one of two. A replica that is gone or full is no home any more,
and then it is that choice again: what a session gains is speed, and nothing else depends on it.
"""

from collections import OrderedDict
from typing import Any, Final

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, ReplicaID, RunningReplica

PATH: Final = f"{__name__}:StickyRouter"
"""How Serve finds it."""

_MOST_SESSIONS: Final = 10_000
"""Of which it is known where they are; each is as long as a request."""


class StickyRouter(PowerOfTwoChoicesRequestRouter):
    """Serve's router, with a memory; one lives in each process that asks the deployment."""

    def initialize_state(self, *, most_sessions: int = _MOST_SESSIONS, **_: Any) -> None:
        """Called by Serve at the beginning."""
        self._homes: OrderedDict[str, ReplicaID] = OrderedDict()
        self._most = most_sessions

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Called by Serve: first the home, then the others; one that is full is passed over."""
        others = await super().choose_replicas(candidate_replicas, pending_request)
        session = pending_request.metadata.session_id if pending_request else ""
        home = self._replicas.get(self._homes[session]) if session in self._homes else None
        return others if home is None else [[home], *others]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Called by Serve when a replica has taken a request."""
        if session := pending_request.metadata.session_id:
            self._homes[session] = replica_id
            self._homes.move_to_end(session)
            if len(self._homes) > self._most:
                self._homes.popitem(last=False)

    def _fulfill_next_pending_request(
        self, replica: RunningReplica, request_metadata: Any = None
    ) -> None:
        """Give ``replica`` to the request that it was chosen for.

        Serve's default gives it to whoever waits longest, and sessions would change homes. Not by
        the id that Serve's other routers go by: calls made for one HTTP request share it.
        """
        for waiting in self._pending_requests_to_fulfill:
            if waiting.metadata is request_metadata and not waiting.future.done():
                self._cancel_routing_task_for_pending_request(waiting)
                self._record_queue_wait_time(waiting)
                waiting.future.set_result(replica)
                self._remove_pending_request_from_indices(waiting)
                return
