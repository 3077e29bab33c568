"""The whole graph in Ray Serve, gateways and all, with correctors that take a fixed time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import fixed_corrector

from aligner_serve import runtime
from aligner_serve.config.graph import GraphConfig


@contextmanager
def serving(config: GraphConfig, *, latency_s: float) -> Iterator[str]:
    """The address of ``config``'s gateway, each of whose aligners takes ``latency_s``."""
    os.environ[fixed_corrector.LATENCY_ENV] = str(latency_s)
    with runtime.ray_and_serve(config):
        from ray import cloudpickle, serve

        from aligner_serve.app import build_with
        from aligner_serve.probe import Probe
        from aligner_serve.release import Release

        # Replicas do not find the stand-in, which is no part of the wheel.
        cloudpickle.register_pickle_by_value(fixed_corrector)  # type: ignore[no-untyped-call]
        released = Release(
            version="models:/fixed/1", uri="nowhere", content_hash="", prompt_fingerprint=""
        )
        application = build_with(
            config,
            dict.fromkeys(config.aligners, released),
            dict.fromkeys(config.aligners, Probe()),
            corrector=fixed_corrector.FixedCorrector,
        )
        serve.run(application, name="aligner", route_prefix="/")
        yield config.url
