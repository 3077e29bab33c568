"""Serve's router with a memory, over replicas that only say how busy they are."""

import asyncio
from typing import Any

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
from ray.serve.request_router import PendingRequest, ReplicaID

from aligner_serve.affinity import StickyRouter

DEPLOYMENT = DeploymentID(name="corrector", app_name="aligner")


class Replica:
    """As much of one as a router sees."""

    max_ongoing_requests = 4
    multiplexed_model_ids: frozenset[str] = frozenset()
    node_id, availability_zone = "node", None

    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaID(name, DEPLOYMENT)
        self.actor_id = name
        self.busy = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        await asyncio.sleep(0.001)
        return self.busy


class Caller:
    """A process that asks the deployment; to be made in a running loop."""

    def __init__(self, replicas: int = 3, **settings: Any) -> None:
        self.replicas = [Replica(f"r{number}") for number in range(replicas)]
        router: Any = StickyRouter
        self._router = router(
            deployment_id=DEPLOYMENT, handle_source=DeploymentHandleSource.REPLICA
        )
        self._router.initialize_state(**settings)
        self._router.update_replicas(self.replicas)

    async def ask(self, session: str) -> Replica:
        """Who gets the request; as all calls made for one HTTP request, it has their id."""
        told = RequestMetadata(request_id="http", internal_request_id="one", session_id=session)
        pending = PendingRequest(args=[], kwargs={}, metadata=told)
        found: Replica = await self._router._choose_replica_for_request(pending)
        self._router.on_request_routed(pending, found.replica_id, None)
        return found

    def lose(self, replica: Replica) -> None:
        """It has died, or has been replaced."""
        self.replicas.remove(replica)
        self._router.update_replicas(self.replicas)


def test_a_session_stays_where_it_began_and_sessions_are_spread() -> None:
    async def conversation(caller: Caller, session: str) -> set[Replica]:
        return {await caller.ask(session) for _ in range(4)}

    async def many() -> list[set[Replica]]:
        caller = Caller()
        return await asyncio.gather(*(conversation(caller, f"s{n}") for n in range(40)))

    homes = asyncio.run(many())
    assert all(len(one) == 1 for one in homes)
    assert len(set.union(*homes)) == 3


def test_without_a_session_the_less_busy_one_is_asked() -> None:
    async def asked() -> set[Replica]:
        caller = Caller(replicas=2)
        caller.replicas[0].busy = 3
        found = {await caller.ask("") for _ in range(10)}
        assert found == {caller.replicas[1]}
        return found

    asyncio.run(asked())


def test_a_busy_home_is_still_home_and_a_full_one_is_not() -> None:
    async def asked() -> None:
        caller = Caller()
        home = await caller.ask("s")
        home.busy = 3
        assert await caller.ask("s") is home
        home.busy = 4
        other = await caller.ask("s")
        assert other is not home
        # It stays where it is now.
        home.busy = 0
        assert await caller.ask("s") is other

    asyncio.run(asked())


def test_a_session_whose_home_is_gone_finds_another() -> None:
    async def asked() -> None:
        caller = Caller()
        home = await caller.ask("s")
        caller.lose(home)
        other = await caller.ask("s")
        assert other is not home
        assert await caller.ask("s") is other

    asyncio.run(asked())


def test_only_so_many_sessions_are_remembered() -> None:
    async def asked() -> list[str]:
        caller = Caller(most_sessions=3)
        for session in "abcad":
            await caller.ask(session)
        return [*caller._router._homes]

    # Those that were asked last.
    assert asyncio.run(asked()) == ["c", "a", "d"]
