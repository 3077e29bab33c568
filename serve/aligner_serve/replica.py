"""The gateway's deployment: the HTTP API in one process, over Serve's handles."""

from typing import Any

from fastapi import FastAPI

from aligner_serve.config.graph import GraphConfig
from aligner_serve.gateway import Gateway
from aligner_serve.handles import CorrectorHandle, UpstreamHandle
from aligner_serve.ingress import build_api
from aligner_serve.telemetry import RayTelemetry


class GatewayReplica:
    """One process of the gateway; Serve asks it for its routes."""

    def __init__(
        self, config: dict[str, Any], upstreams: dict[str, Any], correctors: dict[str, Any]
    ) -> None:
        """``config`` is a dumped :class:`GraphConfig`; the others are Serve's handles, by name."""
        self._gateway = Gateway(
            GraphConfig.model_validate(config),
            upstreams={name: UpstreamHandle(handle) for name, handle in upstreams.items()},
            correctors={name: CorrectorHandle(handle) for name, handle in correctors.items()},
            telemetry=RayTelemetry(),
        )

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve when the replica starts."""
        return build_api(self._gateway)
