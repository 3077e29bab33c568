"""What is minimised. Shapes as in :mod:`aligner_jobs.train.batches`; V = vocabulary."""

import torch
from torch import nn
from torch.nn import functional

from aligner.tokens import IGNORED
from aligner_jobs.train.batches import Batch


def correction_loss_sum(model: nn.Module, batch: Batch, *, device: torch.device) -> torch.Tensor:
    """Cross-entropy summed over the target tokens of ``batch`` (equations 1 and 2 of the paper).

    The sum, not the mean: the caller divides by the targets of the whole global batch, so that a
    token weighs the same whatever batch, pass or worker it falls into.
    """
    input_ids_BT = torch.from_numpy(batch.input_ids_BT).to(device)
    targets_BK = torch.from_numpy(batch.targets_BK).to(device)
    output = model(input_ids=input_ids_BT, use_cache=False, logits_to_keep=batch.kept)
    logits_BKV = output.logits
    return functional.cross_entropy(
        logits_BKV.flatten(0, 1).float(),
        targets_BK.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
