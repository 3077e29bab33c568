"""The paper's comparison of resources (section 2): DPO 11.25 times, RLHF 22.5 times an Aligner's.

The figures are no measured time. They are bytes of model states: 16 for each parameter of a model
that is trained (weights and gradients in 16 bits, fp32 weights and two moments), 2 for each of one
that only answers. All models of a method have the size of the model that is aligned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_TRAINED_BYTES: Final = 16
_FROZEN_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Method:
    """Models of the upstream's size that are in memory together."""

    trained: int
    frozen: int

    @property
    def bytes_per_parameter(self) -> int:
        """Of the upstream."""
        return _TRAINED_BYTES * self.trained + _FROZEN_BYTES * self.frozen


METHODS: Final[Mapping[str, Method]] = {
    # The model and its reference.
    "DPO": Method(trained=1, frozen=1),
    # Actor and critic; reference and reward model.
    "RLHF": Method(trained=2, frozen=2),
}


def times_an_aligner(method: Method, *, upstream: float, aligner: float) -> float:
    """Resources of aligning ``upstream`` parameters by ``method``, in those of training an Aligner.

    An Aligner is trained once, whatever the upstream's size.
    """
    return method.bytes_per_parameter * upstream / (_TRAINED_BYTES * aligner)
