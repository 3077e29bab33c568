import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import serve
from ray.serve.config import AutoscalingConfig

from aligner_serve import app, probe, release
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.scaling import EngineScaling, Scaling


def aligner(**changes: object) -> dict[str, object]:
    return {"source": {"kind": "path", "uri": "nowhere"}, **changes}


def graph(**changes: object) -> GraphConfig:
    raw = {
        "base_url": "http://127.0.0.1:9/v1",
        "upstreams": {"api": {}},
        "aligners": {"first": aligner()},
        **changes,
    }
    return GraphConfig.model_validate(raw)


def deployments(config: GraphConfig, **versions: str) -> dict[str, Any]:
    """Of the application for ``config``, by name; its seats serve 1 or what is given."""
    released = {
        seat: release.Release(
            version=versions.get(seat, "1"), uri="u", content_hash="h", prompt_fingerprint="f" * 12
        )
        for seat in config.seats
    }
    built: Any = app.build_with(
        config,
        released,
        dict.fromkeys(config.aligners, probe.Probe()),
    )
    found: dict[str, Any] = {}
    waiting = [built]
    while waiting:
        deployment = waiting.pop()._bound_deployment
        found[deployment.name] = deployment
        for bound in [*deployment.init_args, *deployment.init_kwargs.values()]:
            waiting += bound.values() if isinstance(bound, dict) else [bound]
        waiting = [one for one in waiting if isinstance(one, serve.Application)]
    return found


def test_serve_will_validate_our_config() -> None:
    """Postponed annotations would make this a string, and Serve would pass a raw mapping on."""
    assert inspect.signature(app.build).parameters["args"].annotation is GraphConfig


def test_no_unsafe_default_of_serve_is_left() -> None:
    """Each of them is one that ``ray.serve.llm`` or Serve itself would set otherwise."""
    options = app._options(graph(deadline_s=60), EngineScaling(max_replicas=3))
    assert options["max_ongoing_requests"] == 32
    assert options["max_queued_requests"] == 128
    assert options["graceful_shutdown_timeout_s"] > 60
    assert options["max_surge_percent"] == 100
    assert options["health_check_period_s"] == 2
    assert options["backpressure_config"] == {"status_code": 429, "retry_after_s": 1}
    scaled = AutoscalingConfig(**options["autoscaling_config"])
    assert (scaled.min_replicas, scaled.max_replicas) == (1, 3)
    assert scaled.target_ongoing_requests == 24
    assert scaled.policy.policy_kwargs == {
        "target_queued_tokens": 16_384, "target_first_token_s": 2.0,
    }  # fmt: skip
    assert scaled.policy.get_policy().__name__ == "LoadOfEngines"


def test_without_an_engine_requests_alone_count() -> None:
    scaled = app._options(graph(), Scaling())["autoscaling_config"]
    assert scaled["target_ongoing_requests"] == 8
    assert scaled["policy"]["policy_kwargs"] == {}


@pytest.mark.parametrize("name", ["gateway", "upstream-api", "upstream-own", "corrector-first"])
def test_every_deployment_has_these_options(name: str) -> None:
    config = graph(
        upstreams={"api": {"scaling": {}}, "own": {"kind": "vllm", "model": "folder"}},
        deadline_s=100,
    )
    found = deployments(config)[name]
    assert 1 <= found.max_ongoing_requests <= 1000
    assert 1 <= found.max_queued_requests <= 1000
    settings = found._deployment_config
    assert settings.graceful_shutdown_timeout_s == 105
    assert settings.max_surge_percent == 100
    assert settings.health_check_period_s == 2
    assert settings.autoscaling_config.policy.policy_function.endswith("LoadOfEngines")


def test_an_api_without_scaling_is_asked_by_the_gateway_itself() -> None:
    assert deployments(graph()).keys() == {"gateway", "corrector-first"}
    apart = graph(upstreams={"api": {"scaling": {}}})
    assert deployments(apart).keys() == {"gateway", "corrector-first", "upstream-api"}


def test_time_to_finish_may_be_set_apart_from_the_deadline() -> None:
    options = app._options(graph(shutdown_timeout_s=45), Scaling())
    assert options["graceful_shutdown_timeout_s"] == 45


def test_aligners_that_share_an_engine_share_its_deployment() -> None:
    aligners = {
        "first": aligner(engine={"base": "model"}),
        "second": aligner(engine={"kind": "shared", "aligner": "first"}),
        "third": aligner(),
    }
    config = graph(aligners=aligners)
    found = deployments(config)
    assert {name for name in found if name.startswith("corrector")} == {
        "corrector-first",
        "corrector-third",
    }
    (served, _) = found["corrector-first"].init_args
    assert list(served) == ["first", "second"]
    correctors = next(one for one in found["gateway"].init_args if "first" in one)
    assert correctors["first"] is correctors["second"]


def test_an_aligner_that_reads_ahead_corrects_where_it_has_read() -> None:
    sharing = {"engine": {"kind": "shared", "aligner": "first"}, "prefill_ahead": {}}
    aligners = {"first": aligner(engine={"base": "model"}), "second": aligner(**sharing)}
    found = deployments(graph(aligners={**aligners, "third": aligner()}))
    routers = {
        name: one._deployment_config.request_router_config.get_request_router_class().__name__
        for name, one in found.items()
    }
    assert routers["corrector-first"] == "StickyRouter"
    plain = "PowerOfTwoChoicesRequestRouter"
    assert {routers[name] for name in ("corrector-third", "gateway")} == {plain}


def test_deploying_imports_no_engine(tmp_path: Path) -> None:
    """vLLM takes 20 s and 0.75 GB in every process that imports it."""
    code = (
        "import sys, aligner_serve.app;"
        "print([name for name in ('vllm', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_another_release_replaces_the_replicas_of_its_own_corrector_alone() -> None:
    config = graph(aligners={"first": aligner(), "second": aligner()})
    before, after = deployments(config), deployments(config, second="2")
    assert before.keys() == after.keys()
    assert all(before[name].version for name in before)
    changed = {name for name in before if before[name].version != after[name].version}
    assert changed == {"corrector-second"}
