"""The gateway's deployment: the HTTP API in one process, over Serve's handles."""

from typing import Any

from fastapi import FastAPI

from aligner_serve.config import GraphConfig
from aligner_serve.gateway import Gateway
from aligner_serve.handles import CorrectorHandle, UpstreamHandle
from aligner_serve.ingress import build_api
from aligner_serve.telemetry import RayTelemetry


class GatewayReplica:
    """One process of the gateway; Serve asks it for its routes."""

    def __init__(
        self, config: dict[str, Any], version: str, corrector: Any, upstreams: dict[str, Any]
    ) -> None:
        """``config`` is a dumped :class:`GraphConfig`; the last two are Serve's handles."""
        self._gateway = Gateway(
            GraphConfig.model_validate(config),
            version=version,
            upstreams={name: UpstreamHandle(handle) for name, handle in upstreams.items()},
            corrector=CorrectorHandle(corrector),
            telemetry=RayTelemetry(),
        )

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve when the replica starts."""
        return build_api(self._gateway)
