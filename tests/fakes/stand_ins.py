"""The whole graph in Ray Serve, gateways and all, with stand-ins for what computes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aligner_serve import runtime
from aligner_serve.config.graph import GraphConfig


@contextmanager
def serving(config: GraphConfig, **stand_ins: type[Any]) -> Iterator[str]:
    """The address of ``config``'s gateway.

    The stand-ins are called as :func:`~aligner_serve.app.build_with` calls what they stand in for.
    """
    with runtime.ray_and_serve(config):
        from ray import cloudpickle, serve

        from aligner_serve.app import build_with
        from aligner_serve.probe import Probe
        from aligner_serve.release import Release

        for one in stand_ins.values():
            # Replicas do not find it, for it is no part of the wheel.
            cloudpickle.register_pickle_by_value(sys.modules[one.__module__])  # type: ignore[no-untyped-call]
        released = Release(
            version="models:/stand-in/1", uri="nowhere", content_hash="", prompt_fingerprint=""
        )
        application = build_with(
            config,
            dict.fromkeys(config.aligners, released),
            dict.fromkeys(config.aligners, Probe()),
            **stand_ins,
        )
        serve.run(application, name="aligner", route_prefix="/")
        yield config.url
