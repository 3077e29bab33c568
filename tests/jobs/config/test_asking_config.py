from typing import Any

import pytest

from aligner.config import validate
from aligner.errors import ConfigError
from aligner_jobs.config.asking import PAPER_SAMPLING, LocalUpstream, Upstream
from aligner_jobs.config.build_dataset import BuildDatasetConfig

URL = "http://127.0.0.1:8100/v1"


def config(**upstream: Any) -> BuildDatasetConfig:
    raw = {
        "out": "o",
        "base_url": URL,
        "sources": {"s": {"kind": "simworld"}},
        "upstreams": {"u": {"model": "m", **upstream}},
        "teacher": {"kind": "simworld"},
    }
    return validate(BuildDatasetConfig, raw, where="test.yaml")


def test_an_upstream_is_behind_an_api_unless_it_says_otherwise() -> None:
    assert isinstance(config().upstreams["u"], Upstream)
    assert config(kind="openai") == config()


def test_a_local_upstream_decodes_as_the_papers_and_needs_no_address() -> None:
    local = config(kind="vllm", model="models/one").upstreams["u"]
    assert isinstance(local, LocalUpstream)
    assert local.sampling == PAPER_SAMPLING


@pytest.mark.parametrize(
    ("upstream", "remedy"),
    [
        ({"kind": "vlm"}, "'vllm'"),
        ({"kind": "vllm", "base_url": URL}, "upstreams.u.base_url"),
        ({"requests_per_minute": 5}, "did you mean 'requests_per_min'"),
        ({"requests_per_min": 0}, "upstreams.u.requests_per_min"),
        ({"tokens_per_min": 500}, "sampling.max_tokens=512"),
        ({"deadline_s": 0}, "upstreams.u.deadline_s"),
    ],
)
def test_settings_that_do_not_fit_name_the_remedy(upstream: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**upstream)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "upstream",
    [
        {"requests_per_min": 5},
        {"tokens_per_min": 5000},
        {"deadline_s": 5.0},
        {"usd_per_1m_prompt_tokens": 1.0},
    ],
)
def test_how_fast_and_for_how_much_is_no_part_of_what(upstream: dict[str, Any]) -> None:
    assert config(**upstream).identity() == config().identity()


def test_what_runs_a_local_model_is_no_part_of_what_it_says() -> None:
    one, two = (config(kind="vllm", engine={"max_num_seqs": number}) for number in (1, 2))
    assert one.identity() == two.identity()
    assert config(kind="vllm").identity() != config(kind="vllm", model="other").identity()
