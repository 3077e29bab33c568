"""What Serve calls on any replica that holds an engine."""

from aligner_serve.engines import Engine


class EngineReplica:
    """A replica with one engine, which its constructor starts."""

    _engine: Engine

    async def check_health(self) -> None:
        """Called by Serve at intervals, and by the gateway's ``/readyz``."""
        await self._engine.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve at intervals; the scaling policy reads it."""
        return self._engine.load()

    async def __del__(self) -> None:
        """Called by Serve at the end: the engine is a process of its own."""
        if (engine := getattr(self, "_engine", None)) is not None:
            await engine.shutdown()
