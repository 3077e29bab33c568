"""What is minimised. Shapes as in :mod:`aligner_jobs.train.batches`; V = vocabulary."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from aligner.tokens import IGNORED
from aligner_jobs.train.attention import layout_of
from aligner_jobs.train.batches import Batch
from aligner_jobs.train.corpus import Corpus, IntArray


class Loss(Protocol):
    """A sum over the rows of a batch, and what the whole global batch's is divided by.

    The sum, not the mean: so a token or a pair weighs the same whatever pass or worker it falls
    into.
    """

    def weight(self, corpus: Corpus, rows: IntArray) -> int:
        """Of ``rows``: what their summed loss is divided by."""

    def total(self, model: nn.Module, batch: Batch, *, device: torch.device) -> torch.Tensor:
        """The summed loss of ``batch``; 0 where it holds no row."""


class CrossEntropy:
    """Of the target tokens (equations 1 and 2 of the paper); the mean is over tokens."""

    def weight(self, corpus: Corpus, rows: IntArray) -> int:
        """Target tokens of ``rows``."""
        return corpus.target_tokens(rows)

    def total(self, model: nn.Module, batch: Batch, *, device: torch.device) -> torch.Tensor:
        """See :class:`Loss`."""
        return -token_logprobs(model, batch, device=device).sum()


@dataclass(frozen=True, slots=True, eq=False)
class Preference:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7); the mean is over pairs.

    Of a row's two documents the first is chosen, the second rejected.
    """

    beta: float
    reference: npt.NDArray[np.float32]
    """Log-probability of each document's target under the model that training began with."""

    def weight(self, corpus: Corpus, rows: IntArray) -> int:
        """Pairs among ``rows``."""
        return len(rows)

    def total(self, model: nn.Module, batch: Batch, *, device: torch.device) -> torch.Tensor:
        """See :class:`Loss`."""
        logprobs_K = token_logprobs(model, batch, device=device)
        if not len(batch.order):
            return 0.0 * logprobs_K.sum()
        gains = document_sums(logprobs_K, batch) - torch.from_numpy(self.reference[batch.order]).to(
            device
        )
        # Back from the order in the batch to pairs: a row's documents have numbers that follow.
        by_number = torch.from_numpy(np.argsort(batch.order)).to(device)
        chosen, rejected = gains[by_number].view(-1, 2).unbind(1)
        return -functional.logsigmoid(self.beta * (chosen - rejected)).sum()


def token_logprobs(model: nn.Module, batch: Batch, *, device: torch.device) -> torch.Tensor:
    """K log-probabilities: of each target given what stands before it in its document."""
    logits_KV = _logits(model, batch, device=device)
    targets_K = torch.from_numpy(batch.targets_K).to(device)
    return -functional.cross_entropy(
        logits_KV.float(), targets_K, ignore_index=IGNORED, reduction="none"
    )


def document_sums(values_K: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sums of ``values_K`` over each document, in the order of ``batch.order``."""
    owners_K = torch.from_numpy(batch.documents_K).to(values_K.device)
    sums = values_K.new_zeros(max(1, len(batch.order)))
    return sums.index_add(0, owners_K, values_K)


def _logits(model: nn.Module, batch: Batch, *, device: torch.device) -> torch.Tensor:
    inputs: dict[str, Any] = {}
    if batch.packed:
        # Four dimensions mean a mask that is ready; the packed attention has no use for one.
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        inputs["layout"] = layout_of(batch.lengths).to(device)
    output = model(
        input_ids=torch.from_numpy(batch.input_ids_BT).to(device),
        position_ids=torch.from_numpy(batch.position_ids_BT).to(device),
        logits_to_keep=torch.from_numpy(batch.keep_BT).to(device),
        use_cache=False,
        **inputs,
    )
    logits: torch.Tensor = output.logits
    return logits.flatten(0, -2)
