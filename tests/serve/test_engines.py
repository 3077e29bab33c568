"""What the engine is told; ``test_engine_serving.py`` has real ones."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from aligner_serve import engines
from aligner_serve.config.aligner import EngineConfig
from aligner_serve.pipeline import Failed


def test_the_engine_takes_its_sampling_from_us_alone() -> None:
    arguments = engines.engine_arguments(EngineConfig(), context_tokens=256)
    assert arguments["generation_config"] == "vllm"
    assert arguments["max_model_len"] == 256
    assert "speculative_config" not in arguments
    assert "trust_remote_code" not in arguments
    assert "enable_lora" not in arguments


def test_guessing_ahead_is_a_number_in_the_config() -> None:
    arguments = engines.engine_arguments(
        EngineConfig(ngram_speculation_tokens=8), context_tokens=256
    )
    assert arguments["speculative_config"]["num_speculative_tokens"] == 8


@pytest.mark.parametrize(("ranks", "largest"), [([8], 8), ([4, 20], 32), ([1, 1, 1], 1)])
def test_all_adapters_have_room_at_once(ranks: list[int], largest: int) -> None:
    arguments = engines.adapter_arguments(ranks)
    assert (arguments["max_loras"], arguments["max_lora_rank"]) == (len(ranks), largest)


def test_an_adapter_tells_its_rank(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 12}))
    assert engines.rank_of(tmp_path) == 12


def test_tokens_that_come_fast_are_handed_on_together() -> None:
    async def fast() -> AsyncGenerator[engines.Decoded | Failed]:
        for number in range(50):
            yield engines.Decoded([number], f"{number} ", "stop" if number == 49 else None)

    async def gathered() -> list[engines.Decoded | Failed]:
        return [one async for one in engines._gathered(fast())]

    first, *_, last = found = asyncio.run(gathered())
    assert first == engines.Decoded([0], "0 ")
    assert len(found) < 10
    assert isinstance(last, engines.Decoded) and last.finish == "stop"
    texts = [one.text for one in found if isinstance(one, engines.Decoded)]
    assert "".join(texts) == "".join(f"{number} " for number in range(50))


@pytest.mark.parametrize(
    ("gpus", "bundles"),
    [(0, [{"CPU": 1}]), (1, [{"CPU": 1, "GPU": 1}]), (2, [{"CPU": 1, "GPU": 1}, {"GPU": 1}])],
)
def test_a_replica_reserves_what_its_engine_needs(
    gpus: int, bundles: list[dict[str, float]]
) -> None:
    assert engines.bundles(EngineConfig(num_gpus=gpus), num_cpus=1) == bundles
