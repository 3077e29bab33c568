"""Ray Serve started by the process of the tests, for deployments without a command around them."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from aligner_serve import runtime
from aligner_serve.config.graph import GraphConfig

_MODE = "RAY_AUTH_MODE"


@contextlib.contextmanager
def ray_and_serve(config: GraphConfig) -> Iterator[None]:
    """As ``runtime.ray_and_serve``, where Ray may have been imported by some other test before.

    Ray settles whether it asks for tokens when it is imported; what it starts later reads the
    environment, and has to agree.
    """
    raylet: Any = importlib.import_module("ray._raylet")
    before = os.environ.get(_MODE)
    token = raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN
    os.environ[_MODE] = "token" if token else "disabled"
    try:
        with runtime.ray_and_serve(config):
            yield
    finally:
        if before is None:
            del os.environ[_MODE]
        else:
            os.environ[_MODE] = before
