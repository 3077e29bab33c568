"""The graph: gateway -> upstreams and correctors, in deployments of their own.

``serve run aligner_serve.app:build key=value`` and KubeRay's ``import_path`` find :func:`build`.
No postponed annotations in this module: Serve reads the builder's signature to validate the
arguments, and would hand over a raw mapping if it found a string there.
"""

import uuid
from collections.abc import Mapping
from typing import Any, Final, assert_never

from ray import serve
from ray.serve import Application, Deployment

from aligner.records import content_id
from aligner_serve import affinity, probe, release, scaling_policy
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import Seat
from aligner_serve.config.scaling import EngineScaling, Scaling
from aligner_serve.config.upstream import ApiUpstream, EngineUpstream
from aligner_serve.corrector import Corrector, Served
from aligner_serve.engine_settings import bundles
from aligner_serve.replica import GatewayReplica
from aligner_serve.shared_quotas import QuotaDesk
from aligner_serve.tracing import Tracer
from aligner_serve.upstream import Upstream
from aligner_serve.upstream_engine import UpstreamEngine

_LOT: Final = uuid.uuid4().hex
"""Of this process: another one may bring other code, and replaces every replica."""


def build(args: GraphConfig) -> Application:
    """The application that ``args`` describes, with the versions that its aliases name now.

    Raises:
        ContractMismatch: A version was made with another prompt.
        DataError: There is no such version, or its files are broken.
    """
    released = release.Registry(args).resolve_all()
    return build_with(args, released, probe.load_all(args))


def build_with(
    config: GraphConfig,
    released: Mapping[str, release.Release],
    probes: Mapping[str, probe.Probe],
    *,
    corrector: type[Any] = Corrector,
    upstream_engine: type[Any] = UpstreamEngine,
) -> Application:
    """The application whose seats serve ``released``; ``probes`` go by the aligners' names.

    Another ``corrector`` or ``upstream_engine`` stands in for engines, where a graph is measured
    without them.
    """
    upstreams = {name: _upstream(config, name, upstream_engine) for name in config.upstreams}
    correctors = _correctors(config, released, probes, corrector)
    options = _options(config, config.gateway)
    # Serve lets in a queue's worth more than the gateway works on: room to say no in OpenAI's way.
    options["max_ongoing_requests"] += config.gateway.max_queued_requests
    gateway = serve.deployment(name="gateway", **options)
    replica = gateway(serve.ingress()(GatewayReplica))
    application: Application = _pinned(replica, "gateway").bind(
        config.model_dump(mode="json"), upstreams, correctors, _tracer(config), _desk(config)
    )
    return application


def _desk(config: GraphConfig) -> Application | None:
    """Where several gateways keep count of what callers may ask; one alone counts for itself."""
    if config.gateway.max_replicas == 1 or not config.access.may_limit:
        return None
    every_gateway = Scaling(max_ongoing_requests=1024, max_queued_requests=1024)
    deployment = serve.deployment(name="quotas", **_options(config, every_gateway))
    application: Application = _pinned(deployment(QuotaDesk), "quotas").bind()
    return application


def _tracer(config: GraphConfig) -> Application | None:
    """What sends traces, where any are wanted: one replica, for its loss costs traces alone."""
    if not config.observing.trace_share:
        return None
    deployment = serve.deployment(name="tracer", **_options(config, Scaling()))
    # As Python: as JSON the address goes without its password.
    application: Application = _pinned(deployment(Tracer), "tracer").bind(
        config.tracking.model_dump()
    )
    return application


def _upstream(
    config: GraphConfig, name: str, upstream_engine: type[Any] = UpstreamEngine
) -> Application | None:
    """None where the gateway's replicas ask it themselves."""
    upstream = config.upstreams[name]
    match upstream:
        case ApiUpstream(scaling=scaling):
            if scaling is None:
                return None
            deployment = serve.deployment(name=f"upstream-{name}", **_options(config, scaling))
            application: Application = _pinned(deployment(Upstream), name).bind(
                name, config.endpoint(name), upstream
            )
            return application
        case EngineUpstream(scaling=scaling, engine=engine):
            deployment = serve.deployment(
                name=f"upstream-{name}",
                placement_group_bundles=bundles(engine, num_cpus=scaling.num_cpus),
                placement_group_strategy="PACK",
                **_options(config, scaling),
            )
            return _pinned(deployment(upstream_engine), name).bind(
                name, upstream.model_dump(mode="json"), config.cache
            )
        case _:
            assert_never(upstream)


def _correctors(
    config: GraphConfig,
    released: Mapping[str, release.Release],
    probes: Mapping[str, probe.Probe],
    corrector: type[Any],
) -> dict[str, Application]:
    """By seat; aligners that share an engine share its deployment."""
    served: dict[str, Served] = {
        name: (
            released[name].model_dump(mode="json"),
            config.aligners[seat.aligner].model_dump(mode="json"),
            probes[seat.aligner].model_dump(mode="json"),
        )
        for name, seat in config.seats.items()
    }
    found: dict[str, Application] = {}
    for name, seat in config.seats.items():
        if seat.aligner == config.host_of(seat.aligner):
            guests = config.guests_of(name) if name in config.aligners else []
            together = {seat.aligner: served[name], **{guest: served[guest] for guest in guests}}
            found[name] = _corrector(config, seat, together, corrector)
    return {name: found.get(name) or found[config.host_of(name)] for name in config.seats}


def _corrector(
    config: GraphConfig, seat: Seat, served: dict[str, Served], corrector: type[Any]
) -> Application:
    scaling = config.aligners[seat.aligner].scaling
    deployment = serve.deployment(
        name=seat.deployment,
        placement_group_bundles=bundles(config.engine_of(seat.aligner), num_cpus=scaling.num_cpus),
        placement_group_strategy="PACK",
        **_options(config, scaling),
        **_router(any(config.aligners[name].prefill_ahead for name in served)),
    )
    versions = [identity for identity, _, _ in served.values()]
    application: Application = _pinned(deployment(corrector), versions).bind(served, config.cache)
    return application


def _router(reads_ahead: bool) -> dict[str, Any]:
    """What is read ahead is of use to the replica that has read it, and to no other."""
    if not reads_ahead:
        return {}
    return {"request_router_config": {"request_router_class": affinity.PATH}}


def _pinned(deployment: Deployment, identity: object) -> Deployment:
    """``deployment`` whose replicas are replaced where ``identity`` differs, and only there.

    Left to itself Serve replaces all replicas of a graph that is deployed again. The option is
    internal in Ray 2.60; ``tests/serve/test_runtime.py`` holds it to what it does here.
    """
    pinned: Deployment = deployment.options(version=content_id(_LOT, identity), _internal=True)
    return pinned


def _options(config: GraphConfig, scaling: Scaling) -> dict[str, Any]:
    """Deployment options; the defaults of both Serve and its LLM part are unsafe for us.

    Those have no limit on what a replica takes (so no back-pressure, and no scaling up), kill
    a replica in the middle of a long answer, replace a single replica with an outage, and take
    half a minute to see that an engine has died.
    """
    return {
        "max_ongoing_requests": scaling.max_ongoing_requests,
        "max_queued_requests": scaling.max_queued_requests,
        "autoscaling_config": _autoscaling(scaling),
        "ray_actor_options": {"num_cpus": scaling.num_cpus},
        "graceful_shutdown_timeout_s": config.drain_s,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 20.0,
        "max_surge_percent": 100,
        "max_constructor_retry_count": 2,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
        # A line of ours tells of each request; Serve's own would tell it twice, without outcome.
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
    }


def _autoscaling(scaling: Scaling) -> dict[str, Any]:
    targets = {}
    if isinstance(scaling, EngineScaling):
        targets = scaling.model_dump(include={"target_queued_tokens", "target_first_token_s"})
    return {
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        "target_ongoing_requests": scaling.requests_per_replica,
        "look_back_period_s": scaling.look_back_s,
        # How often replicas tell their load.
        "metrics_interval_s": scaling.look_back_s / 5,
        "upscale_delay_s": scaling.upscale_delay_s,
        "downscale_delay_s": scaling.downscale_delay_s,
        "policy": {"policy_function": scaling_policy.PATH, "policy_kwargs": targets},
    }
