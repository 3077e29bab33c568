"""The learning rate as a pure function of the step, so that a resumed run continues exactly."""

import math


def learning_rate(step: int, *, total_steps: int, peak: float, lr_warmup_ratio: float) -> float:
    """Rate of optimiser step ``step`` (0 is the first): linear rise to ``peak``, then a cosine.

    The cosine would reach 0 one step after the last, so that no step is spent at 0.
    """
    rising = math.ceil(total_steps * lr_warmup_ratio)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    progress = (step - rising) / max(1, total_steps - rising)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
