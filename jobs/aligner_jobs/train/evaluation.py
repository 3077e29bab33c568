"""One evaluation of a model in training: held-out loss, sampled corrections, and what it cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner_jobs.config.objective import CorrectionObjective
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.heldout import Group, heldout_loss
from aligner_jobs.train.material import Material
from aligner_jobs.train.objectives import Loss
from aligner_jobs.train.samples import sample_corrections

HELDOUT: Final = "heldout"
"""The split that is measured, by the name of its corpus."""
HELDOUT_LOSS: Final = "heldout_loss"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What was found."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those that there are held-out rows for."""
    samples: Sequence[Mapping[str, str | float]] = ()
    """Some corrections, for people."""


def evaluate(
    engine: Any,
    material: Material,
    *,
    rows: int,
    loss: Loss | None,
    tokenizer: HfTokenizer,
    config: TrainConfig,
    group: Group,
) -> Evaluated:
    """Measure the held-out ``loss``, where one is given, and correct at most ``rows`` held-out rows
    and as many perfect answers.

    All workers of ``group`` must call it, and all get the same. Upstreams are not asked to correct.
    """
    began_s = time.monotonic()
    metrics: dict[str, float] = {}
    if loss is not None and len(material.heldout):
        metrics[HELDOUT_LOSS] = heldout_loss(
            engine, material.heldout, loss=loss, config=config, group=group
        )
    table: Sequence[Mapping[str, str | float]] = ()
    if rows and isinstance(config.objective, CorrectionObjective):
        sampled = sample_corrections(
            engine,
            material.copy_sample[:rows],
            material.identity_sample[:rows],
            config=config,
            template=material.template,
            tokenizer=tokenizer,
            group=group,
        )
        metrics |= sampled.metrics
        table = sampled.table(config.heldout.sample_rows)
    if metrics:
        metrics["evaluation_s"] = time.monotonic() - began_s
    return Evaluated(metrics, table)
