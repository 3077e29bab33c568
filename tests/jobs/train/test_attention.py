"""What one document holds must never reach another, whatever stands around it in the pack."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from corpora import counting
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from aligner_jobs.config.model import ScratchModel
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.attention import layout_of, packed_attention
from aligner_jobs.train.batches import Batch, collate
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import document_sums, token_logprobs

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=12)


def model() -> torch.nn.Module:
    spec = ScratchModel(
        kind="scratch", hidden_size=64, layers=2, heads=2, intermediate_size=96, vocab_size=2000
    )
    config = TrainConfig(dataset="d", out="o", model=spec, precision="fp32", max_length_tokens=64)
    return build_model(config, vocab_size=2000, bos_token_id=1, eos_token_id=2).eval()


@settings(deadline=None)
@given(lengths=LENGTHS, key_heads=st.sampled_from([1, 2, 4]))
def test_it_equals_attention_over_each_document_alone(lengths: list[int], key_heads: int) -> None:
    lengths = sorted(lengths, reverse=True)
    torch.manual_seed(0)
    total = sum(lengths)
    query = torch.randn(1, 4, total, 8, requires_grad=True)
    key, value = (torch.randn(1, key_heads, total, 8, requires_grad=True) for _ in range(2))
    found, _ = packed_attention(
        torch.nn.Module(), query, key, value, None, scaling=0.3, layout=layout_of(np.array(lengths))
    )
    parts = [torch.split(x, lengths, dim=2) for x in (query, key, value)]
    alone = [
        functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=0.3, enable_gqa=True
        ).transpose(1, 2)
        for q, k, v in zip(*parts, strict=True)
    ]
    expected = torch.cat(alone, dim=1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def losses(network: torch.nn.Module, batch: Batch) -> dict[int, float]:
    with torch.no_grad():
        sums = document_sums(token_logprobs(network, batch, device=CPU), batch)
    return {int(document): float(s) for document, s in zip(batch.order, sums, strict=True)}


def test_losses_of_documents_in_a_pack_equal_those_of_each_alone() -> None:
    corpus = counting((5, 9), (20, 3), (1, 1), (30, 31), (2, 12), (8, 8), (40, 5))
    network, every = model(), np.arange(len(corpus))
    packed = losses(network, collate(corpus, every, packed=True))
    padded = losses(network, collate(corpus, every, packed=False))
    for number in every:
        (alone,) = losses(network, collate(corpus, np.array([number]), packed=False)).values()
        assert packed[int(number)] == pytest.approx(alone, abs=1e-4)
        assert padded[int(number)] == pytest.approx(alone, abs=1e-4)


def test_a_changed_neighbour_changes_nothing() -> None:
    corpus, network = counting((9, 9), (7, 5), (3, 4)), model()
    batch, other = (collate(corpus, np.arange(3), packed=True) for _ in range(2))
    start, length = int(batch.lengths[0]), int(batch.lengths[1])
    other.input_ids_BT[0, start : start + length] = 77
    mine, theirs = (logprobs(network, one) for one in (batch, other))
    untouched = batch.documents_K != 1
    assert np.array_equal(mine[untouched], theirs[untouched])
    assert not np.allclose(mine[~untouched], theirs[~untouched])


def logprobs(network: torch.nn.Module, batch: Batch) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        found: npt.NDArray[np.float32] = token_logprobs(network, batch, device=CPU).numpy()
    return found
