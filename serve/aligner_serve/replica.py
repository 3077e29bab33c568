"""The gateway's deployment: the HTTP API in one process, over Serve's handles."""

from functools import cache
from typing import Any, assert_never

from fastapi import FastAPI

from aligner_serve import routing
from aligner_serve.asking import breakers_of, with_fallbacks
from aligner_serve.comparisons import RayComparisons
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import Canary, Shadow, challenger_of
from aligner_serve.config.upstream import ApiUpstream
from aligner_serve.gateway import Gateway
from aligner_serve.handles import CorrectorHandle, UpstreamHandle
from aligner_serve.ingress import build_api
from aligner_serve.observing import Observing
from aligner_serve.quotas import Charging, Ledger, Quotas
from aligner_serve.shared_quotas import SharedQuotas
from aligner_serve.stages import AskableCorrector, AskableUpstream
from aligner_serve.upstream import Upstream


class GatewayReplica:
    """One process of the gateway; Serve asks it for its routes."""

    def __init__(
        self,
        config: dict[str, Any],
        upstreams: dict[str, Any | None],
        correctors: dict[str, Any],
        tracer: Any | None = None,
        desk: Any | None = None,
    ) -> None:
        """``config`` is a dumped :class:`GraphConfig`; the others are Serve's handles.

        Those of upstreams go by their names, None for one that is asked from here; those of
        correctors by their seats.

        Raises:
            ConfigError: The variable that should hold an upstream's key is not set.
        """
        parsed = GraphConfig.model_validate(config)
        breakers = breakers_of(parsed)
        self._quotas: Quotas = Ledger() if desk is None else SharedQuotas(desk)
        self._observing = Observing(parsed, breakers, tracer)
        self._gateway = Gateway(
            parsed,
            upstreams=with_fallbacks(parsed, _askable(parsed, upstreams), breakers),
            correctors=_routed(parsed, correctors),
            telemetry=Charging(self._observing.telemetry, self._quotas),
            read_ahead=self._observing.read_ahead,
        )

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve when the replica starts."""
        self._observing.start()
        return build_api(self._gateway, self._observing.seeing, self._quotas, behind_serve=True)


def _askable(config: GraphConfig, handles: dict[str, Any | None]) -> dict[str, AskableUpstream]:
    found: dict[str, AskableUpstream] = {}
    for name, upstream in config.upstreams.items():
        if (handle := handles[name]) is not None:
            found[name] = UpstreamHandle(handle)
        elif isinstance(upstream, ApiUpstream):
            found[name] = Upstream(name, config.endpoint(name), upstream)
    return found


def _routed(config: GraphConfig, seats: dict[str, Any]) -> dict[str, AskableCorrector]:
    """By the aligners' names; where one has a challenger, both stand behind its name."""
    routed: dict[str, AskableCorrector] = {}
    # A process registers a metric once.
    comparisons = cache(RayComparisons)
    for name, aligner in config.aligners.items():
        champion = CorrectorHandle(seats[name], name)
        match aligner.challenger:
            case None:
                routed[name] = champion
            case Canary(share=share):
                challenger = CorrectorHandle(seats[challenger_of(name)], name)
                routed[name] = routing.Canary(champion, challenger, aligner=name, share=share)
            case Shadow(share=share, max_ongoing_requests=most):
                routed[name] = routing.Shadow(
                    champion,
                    CorrectorHandle(seats[challenger_of(name)], name),
                    aligner=name,
                    share=share,
                    max_ongoing=most,
                    compared=comparisons(),
                )
            case _:
                assert_never(aligner.challenger)
    return routed
