import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from aligner_serve import app, corrector
from aligner_serve.config.aligner import AlignerConfig
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.scaling import Scaling


def aligner(**changes: object) -> AlignerConfig:
    raw = {"source": {"kind": "path", "uri": "nowhere"}, **changes}
    return AlignerConfig.model_validate(raw)


def test_serve_will_validate_our_config() -> None:
    """Postponed annotations would make this a string, and Serve would pass a raw mapping on."""
    assert inspect.signature(app.build).parameters["args"].annotation is GraphConfig


def test_every_deployment_has_limits_and_room_to_finish() -> None:
    config = GraphConfig.model_validate(
        {
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"up": {}},
            "aligner": aligner().model_dump(),
            "shutdown_timeout_s": 45,
        }
    )
    options = app._options(config, Scaling(min_replicas=1, max_replicas=3))
    assert options["max_ongoing_requests"] <= 1000
    assert options["max_queued_requests"] >= 0
    assert options["autoscaling_config"]["max_replicas"] == 3
    assert options["autoscaling_config"]["target_ongoing_requests"] <= 1000
    assert options["graceful_shutdown_timeout_s"] == 45
    assert options["max_surge_percent"] > 0


def test_the_engine_takes_its_sampling_from_us_alone() -> None:
    arguments = corrector.engine_arguments(aligner(), context_tokens=256)
    assert arguments["generation_config"] == "vllm"
    assert arguments["max_model_len"] == 256
    assert "speculative_config" not in arguments
    assert "trust_remote_code" not in arguments


def test_guessing_ahead_is_a_number_in_the_config() -> None:
    arguments = corrector.engine_arguments(
        aligner(engine={"ngram_speculation_tokens": 8}), context_tokens=256
    )
    assert arguments["speculative_config"]["num_speculative_tokens"] == 8


@pytest.mark.parametrize(
    ("gpus", "bundles"),
    [(0, [{"CPU": 1}]), (1, [{"CPU": 1, "GPU": 1}]), (2, [{"CPU": 1, "GPU": 1}, {"GPU": 1}])],
)
def test_a_replica_reserves_what_its_engine_needs(
    gpus: int, bundles: list[dict[str, float]]
) -> None:
    assert corrector.bundles(aligner(engine={"num_gpus": gpus})) == bundles


def test_deploying_imports_no_engine(tmp_path: Path) -> None:
    """vLLM takes 20 s and 0.75 GB in every process that imports it."""
    code = (
        "import sys, aligner_serve.app;"
        "print([name for name in ('vllm', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
