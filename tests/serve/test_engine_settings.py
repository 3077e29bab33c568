"""What the engine is told; ``test_engine_serving.py`` has real ones."""

import json
from pathlib import Path

import pytest

from aligner.adapters import vllm_copying
from aligner.answer_marks import Marks
from aligner_serve import engine_settings
from aligner_serve.config.aligner import EngineConfig

MARKS = Marks(before=(5, 6), after=(7, 8), end_id=2)


def test_the_engine_takes_its_sampling_from_us_alone() -> None:
    arguments = engine_settings.engine_arguments(EngineConfig(), context_tokens=256)
    assert arguments["generation_config"] == "vllm"
    assert arguments["max_model_len"] == 256
    assert "speculative_config" not in arguments
    assert "trust_remote_code" not in arguments
    assert "enable_lora" not in arguments


def test_what_was_read_is_found_again_in_small_pieces() -> None:
    on_cpu = engine_settings.engine_arguments(EngineConfig(), context_tokens=256)
    assert on_cpu["block_size"] == 32
    on_gpu = engine_settings.engine_arguments(EngineConfig(num_gpus=1), context_tokens=256)
    assert "block_size" not in on_gpu


def test_drafting_is_a_number_in_the_config() -> None:
    arguments = engine_settings.engine_arguments(
        EngineConfig(copy_speculation_tokens=8, num_gpus=1), context_tokens=256, marks=[MARKS]
    )
    assert arguments["speculative_config"]["num_speculative_tokens"] == 8
    told = arguments["additional_config"][vllm_copying.SETTINGS]
    assert [Marks.model_validate(one) for one in told] == [MARKS]
    path = arguments["speculative_config"]["model"]
    assert path == "aligner.adapters.vllm_copying.CopyProposer"


@pytest.mark.parametrize(
    ("engine", "marks", "drafts"),
    [
        (EngineConfig(), [MARKS], True),
        (EngineConfig(copy_speculation_tokens=0), [MARKS], False),
        # Where it was not measured, and for upstreams, it wants to be asked for.
        (EngineConfig(num_gpus=1), [MARKS], False),
        (EngineConfig(), [], False),
        (EngineConfig(copy_speculation_tokens=4), [], True),
    ],
)
def test_an_aligner_on_a_cpu_drafts_unless_told_otherwise(
    engine: EngineConfig, marks: list[Marks], drafts: bool
) -> None:
    arguments = engine_settings.engine_arguments(engine, context_tokens=256, marks=marks)
    assert ("speculative_config" in arguments) == drafts


@pytest.mark.parametrize(("ranks", "largest"), [([8], 8), ([4, 20], 32), ([1, 1, 1], 1)])
def test_all_adapters_have_room_at_once(ranks: list[int], largest: int, tmp_path: Path) -> None:
    adapters = [adapter(tmp_path / str(number), rank) for number, rank in enumerate(ranks)]
    arguments = engine_settings.adapter_arguments(adapters)
    assert (arguments["max_loras"], arguments["max_lora_rank"]) == (len(ranks), largest)


def test_only_layers_that_an_adapter_adds_to_are_wrapped(tmp_path: Path) -> None:
    adapters = [
        adapter(tmp_path / "one", 8, "q_proj", "v_proj"),
        adapter(tmp_path / "two", 8, "down_proj", "q_proj"),
    ]
    arguments = engine_settings.adapter_arguments(adapters)
    assert arguments["lora_target_modules"] == ["down_proj", "q_proj", "v_proj"]


def adapter(folder: Path, rank: int, *layers: str) -> Path:
    folder.mkdir()
    told = {"r": rank, "target_modules": list(layers)}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize(
    ("gpus", "bundles"),
    [(0, [{"CPU": 1}]), (1, [{"CPU": 1, "GPU": 1}]), (2, [{"CPU": 1, "GPU": 1}, {"GPU": 1}])],
)
def test_a_replica_reserves_what_its_engine_needs(
    gpus: int, bundles: list[dict[str, float]]
) -> None:
    assert engine_settings.bundles(EngineConfig(num_gpus=gpus), num_cpus=1) == bundles
