"""The estimate against what PyTorch allocates for the very models that are trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from aligner.tokens import Example
from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.measuring import Heldout
from aligner_jobs.config.model import ScratchModel, Shape
from aligner_jobs.config.train import TrainConfig, Zero
from aligner_jobs.train.batches import collate
from aligner_jobs.train.corpus import local_corpus
from aligner_jobs.train.encoding import block
from aligner_jobs.train.memory import Pass, estimate, layer_bytes, trained_parameters
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import token_logprobs

CPU = torch.device("cpu")
SMALL = ScratchModel(
    kind="scratch", hidden_size=256, layers=3, heads=8, kv_heads=2, head_dim=32,
    intermediate_size=704, vocab_size=2048, tied_embeddings=False,
)  # fmt: skip
GEMMA = SMALL.model_copy(update={"family": "gemma", "heads": 4, "kv_heads": 1, "head_dim": 64})


def config(model: ScratchModel = SMALL, **changes: Any) -> TrainConfig:
    return TrainConfig(dataset="d", out="o", model=model, **({"precision": "fp32"} | changes))


@contextmanager
def most_allocated(into: list[int]) -> Iterator[None]:
    """Append the most bytes that the block holds at once beyond what stood before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        yield
    held = most = 0
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    into.append(most)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [SMALL, GEMMA], ids=["llama", "gemma"])
def test_activations_are_as_large_as_estimated(
    model: ScratchModel, precision: str, checkpointing: bool
) -> None:
    settings = config(model, precision=precision, gradient_checkpointing=checkpointing)
    built = build_model(settings, vocab_size=model.vocab_size, bos_token_id=1, eos_token_id=2)
    if precision == "bf16":
        built = built.bfloat16()
    built.train()
    rows = [Example([5] * 96, [6] * 32) for _ in range(8)]
    corpus, _ = local_corpus([block((f"{n:032x}", "keep", [row]) for n, row in enumerate(rows))])
    batch = collate(corpus, torch.arange(8).numpy(), packed=True)
    most: list[int] = []
    with most_allocated(most):
        loss = -token_logprobs(built, batch, device=CPU).sum()
        loss.backward()  # type: ignore[no-untyped-call]

    tokens, targets = batch.tokens, len(batch.targets_K)
    parts = estimate(settings, model, Pass(tokens=tokens, targets=targets, longest=128)).parts
    gradients = sum(p.numel() * p.element_size() for p in built.parameters())
    activations = parts["activations"] + parts["loss or layer at work"]
    # Gradients come as activations go: the most is between the larger of both and their sum.
    assert 0.9 * max(activations, gradients) < most[0] < 1.1 * (activations + gradients)


def test_an_activation_more_or_less_would_be_noticed() -> None:
    """What autograd keeps for one layer, counted tensor by tensor."""
    for model in (SMALL, GEMMA):
        for precision in ("fp32", "bf16"):
            settings = config(model, precision=precision)
            kept = [kept_per_token(settings, layers=layers) for layers in (1, 3)]
            assert (kept[1] - kept[0]) / 2 == pytest.approx(layer_bytes(settings, model), rel=0.1)


def kept_per_token(settings: TrainConfig, *, layers: int) -> float:
    model = settings.model.model_copy(update={"layers": layers})
    changed = settings.model_copy(update={"model": model})
    built = build_model(changed, vocab_size=2048, bos_token_id=1, eos_token_id=2)
    built = built.bfloat16() if settings.precision == "bf16" else built
    weights = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    # Of unlike lengths, as in a real pack.
    rows = [Example([5] * (100 - 20 * n), [6] * 28) for n in range(4)]
    corpus, _ = local_corpus([block((f"{n:032x}", "keep", [row]) for n, row in enumerate(rows))])
    batch = collate(corpus, torch.arange(4).numpy(), packed=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        token_logprobs(built, batch, device=CPU)
    return sum(kept.values()) / batch.tokens


def test_lora_trains_as_many_parameters_as_peft_adds() -> None:
    for targets in ((), ("q_proj", "v_proj")):
        adapter = Lora(kind="lora", rank=4, targets=targets)
        built = build_model(
            config(adapter=adapter), vocab_size=2048, bos_token_id=1, eos_token_id=2
        )
        trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
        assert trained_parameters(SMALL, adapter) == trained


LLAMA_7B = Shape(
    hidden_size=4096, layers=32, heads=32, intermediate_size=11008, vocab_size=32000,
    tied_embeddings=False,
)  # fmt: skip
PASS = Pass(tokens=2048, targets=1024, longest=512, per_step=4)


def states(stage: int, *, workers: int = 8, **changes: Any) -> dict[str, int]:
    settings = config(
        precision="bf16", use_gpu=True, num_workers=workers, gradient_checkpointing=True,
        zero=Zero(stage=stage, **changes), heldout=Heldout(generate_rows=0),
    )  # fmt: skip
    return dict(estimate(settings, LLAMA_7B, PASS).parts)


def test_each_zero_stage_spreads_one_thing_more() -> None:
    parameters = LLAMA_7B.parameters
    kinds = ("weights", "gradients", "optimizer")
    spread = {
        stage: [round(8 * states(stage)[k] / parameters) for k in kinds] for stage in range(4)
    }
    assert spread == {0: [16, 16, 96], 1: [16, 16, 12], 2: [16, 2, 12], 3: [2, 2, 12]}


def test_sampling_corrections_needs_keys_and_values_of_a_whole_batch() -> None:
    """Two numbers of 4,096 for each of 32 layers and each token of 16 rows."""
    heldout = Heldout(generate_rows=128, generate_batch_size=16)
    settings = config(precision="bf16", use_gpu=True, num_workers=8, heldout=heldout)
    found = estimate(settings, LLAMA_7B, Pass(tokens=512, targets=256, longest=2048))
    assert found.moment == "evaluation"
    assert found.parts["keys and values"] == 2 * 2 * 4096 * 32 * 2048 * 16


def test_what_is_offloaded_leaves_the_gpu_for_the_machine() -> None:
    held = states(3, offload_optimizer=True, offload_parameters=True)
    # What is left is the start, when the model is on the GPU as a whole.
    assert set(held) == {"process", "weights"}
    assert held["weights"] == 2 * LLAMA_7B.parameters
    settings = config(
        precision="bf16", use_gpu=True, zero=Zero(stage=3, offload_optimizer=True), num_workers=1
    )
    assert estimate(settings, LLAMA_7B, PASS).host > 16 * LLAMA_7B.parameters
