"""The graph: gateway -> upstreams and correctors, each a deployment of its own.

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
from aligner_serve import probe, release
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import Seat
from aligner_serve.config.scaling import Scaling
from aligner_serve.config.upstream import ApiUpstream, EngineUpstream
from aligner_serve.corrector import Corrector, bundles
from aligner_serve.replica import GatewayReplica
from aligner_serve.upstream import Upstream

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
    config: GraphConfig, released: Mapping[str, release.Release], probes: Mapping[str, probe.Probe]
) -> Application:
    """The application whose seats serve ``released``; ``probes`` go by the aligners' names."""
    upstreams = {name: _upstream(config, name) for name in config.upstreams}
    correctors = {
        name: _corrector(config, seat, released[name], probes[seat.aligner])
        for name, seat in config.seats.items()
    }
    options = _options(config, config.gateway)
    # Serve lets in a queue's worth more than the gateway works on: room to say no in OpenAI's way.
    options["max_ongoing_requests"] += config.gateway.max_queued_requests
    gateway = serve.deployment(name="gateway", **options)
    replica = gateway(serve.ingress()(GatewayReplica))
    application: Application = _pinned(replica, "gateway").bind(
        config.model_dump(mode="json"), upstreams, correctors
    )
    return application


def _upstream(config: GraphConfig, name: str) -> Application:
    upstream = config.upstreams[name]
    match upstream:
        case ApiUpstream():
            deployment = serve.deployment(
                name=f"upstream-{name}", **_options(config, upstream.scaling)
            )
            application: Application = _pinned(deployment(Upstream), name).bind(
                name,
                config.endpoint(name).model_dump(mode="json"),
                upstream.model_dump(mode="json"),
            )
            return application
        case EngineUpstream():
            raise NotImplementedError
        case _:
            assert_never(upstream)


def _corrector(
    config: GraphConfig, seat: Seat, released: release.Release, examined: probe.Probe
) -> Application:
    aligner = config.aligners[seat.aligner]
    deployment = serve.deployment(
        name=seat.deployment,
        placement_group_bundles=bundles(aligner),
        placement_group_strategy="PACK",
        **_options(config, aligner.scaling),
    )
    identity = released.model_dump(mode="json")
    application: Application = _pinned(deployment(Corrector), identity).bind(
        identity,
        aligner.model_dump(mode="json"),
        config.cache,
        examined.model_dump(mode="json"),
    )
    return application


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
    a replica in the middle of a long answer, and replace a single replica with an outage.
    """
    return {
        "max_ongoing_requests": scaling.max_ongoing_requests,
        "max_queued_requests": scaling.max_queued_requests,
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
        },
        "ray_actor_options": {"num_cpus": scaling.num_cpus},
        "graceful_shutdown_timeout_s": config.shutdown_timeout_s,
        "graceful_shutdown_wait_loop_s": 0.2,
        "max_surge_percent": 100,
        "max_constructor_retry_count": 2,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
    }
