"""The graph: gateway -> upstreams and correctors, each a deployment of its own.

``serve run aligner_serve.app:build key=value`` and KubeRay's ``import_path`` find :func:`build`.
No postponed annotations in this module: Serve reads the builder's signature to validate the
arguments, and would hand over a raw mapping if it found a string there.
"""

from collections.abc import Mapping
from typing import Any, assert_never

from ray import serve
from ray.serve import Application

from aligner_serve import release
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.scaling import Scaling
from aligner_serve.config.upstream import ApiUpstream, EngineUpstream
from aligner_serve.corrector import Corrector, bundles
from aligner_serve.replica import GatewayReplica
from aligner_serve.upstream import Upstream


def build(args: GraphConfig) -> Application:
    """The application that ``args`` describes, with the versions that its aliases name now.

    Raises:
        ContractMismatch: A version was made with another prompt.
        DataError: There is no such version, or its files are broken.
    """
    return build_with(args, release.resolve_all(args))


def build_with(config: GraphConfig, released: Mapping[str, release.Release]) -> Application:
    """The application that serves ``released``, by the names of the aligners."""
    upstreams = {name: _upstream(config, name) for name in config.upstreams}
    correctors = {name: _corrector(config, name, released[name]) for name in config.aligners}
    options = _options(config, config.gateway)
    # Serve lets in a queue's worth more than the gateway works on: room to say no in OpenAI's way.
    options["max_ongoing_requests"] += config.gateway.max_queued_requests
    gateway = serve.deployment(name="gateway", **options)
    application: Application = gateway(serve.ingress()(GatewayReplica)).bind(
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
            application: Application = deployment(Upstream).bind(
                name, config.endpoint(name).model_dump(mode="json")
            )
            return application
        case EngineUpstream():
            raise NotImplementedError
        case _:
            assert_never(upstream)


def _corrector(config: GraphConfig, name: str, released: release.Release) -> Application:
    aligner = config.aligners[name]
    deployment = serve.deployment(
        name=f"corrector-{name}",
        placement_group_bundles=bundles(aligner),
        placement_group_strategy="PACK",
        **_options(config, aligner.scaling),
    )
    application: Application = deployment(Corrector).bind(
        released.model_dump(mode="json"), aligner.model_dump(mode="json"), config.cache
    )
    return application


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
