"""Tiny models that know a few texts by heart, so that what they write can be held to the letter."""

from collections.abc import Sequence
from typing import Any, Final

import torch

from aligner.tokens import Example

_STEPS: Final = 400
_GOOD_ENOUGH: Final = 1e-2


def learn(model: Any, examples: Sequence[Example]) -> None:
    """Train what is to be trained of ``model`` until it knows ``examples``."""
    # On a busy machine two threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    length = max(len(example) for example in examples)
    ids_BT = torch.tensor([e.input_ids + [0] * (length - len(e)) for e in examples])
    labels_BT = torch.tensor([e.labels + [-100] * (length - len(e)) for e in examples])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    for _ in range(_STEPS):
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < _GOOD_ENOUGH:
            return
    raise AssertionError(f"{loss.item()} is the best that came of {_STEPS} steps")
