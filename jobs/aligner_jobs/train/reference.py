"""What the model that training begins with makes of each pair: computed once, kept with the run."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from aligner import artefacts
from aligner.errors import TrainingError
from aligner_jobs.config.objective import CorrectionObjective, DpoObjective, SftObjective
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate, passes_of
from aligner_jobs.train.corpus import Corpus, IntArray
from aligner_jobs.train.heldout import Group
from aligner_jobs.train.objectives import (
    CrossEntropy,
    Loss,
    Preference,
    document_sums,
    token_logprobs,
)


def loss_over(
    engine: Any, corpus: Corpus, name: str, *, begun: bool, config: TrainConfig, group: Group
) -> Loss:
    """The loss that ``config`` asks for over ``corpus``, called ``name``; all workers call it.

    ``begun`` says that ``engine`` is no longer the model that training began with.

    Raises:
        TrainingError: The kept log-probabilities are gone.
    """
    match config.objective:
        case CorrectionObjective() | SftObjective():
            return CrossEntropy()
        case DpoObjective(beta=beta):
            reference = _kept(corpus, name, config=config)
            if reference is None and begun:
                raise TrainingError(
                    f"{_uri(config, name)}: the log-probabilities that this run began with are "
                    "gone; choose another out to begin anew."
                )
            if reference is None:
                reference = _computed(engine, corpus, config=config, group=group)
                if group.rank == 0:
                    _keep(reference, corpus, name, config=config)
            return Preference(beta, reference)


def _computed(
    engine: Any, corpus: Corpus, *, config: TrainConfig, group: Group
) -> npt.NDArray[np.float32]:
    """Log-probability of each document's target."""
    sums = torch.zeros(len(corpus.lengths), device=group.device)
    engine.eval()
    with torch.no_grad():
        for rows in _some_at_a_time(corpus, config):
            passes = passes_of(corpus, rows, config=config, world_size=group.world_size)
            for parts in passes:
                batch = collate(corpus, parts[group.rank], packed=config.packing)
                logprobs = token_logprobs(engine, batch, device=group.device)
                if len(batch.order):
                    order = torch.from_numpy(batch.order).to(group.device)
                    sums[order] = document_sums(logprobs, batch).float()
    engine.train()
    if group.world_size > 1:
        distributed.all_reduce(sums)
    found: npt.NDArray[np.float32] = sums.cpu().numpy()
    return found


def _some_at_a_time(corpus: Corpus, config: TrainConfig) -> list[IntArray]:
    size = config.global_batch_size
    return [np.arange(at, min(at + size, len(corpus))) for at in range(0, len(corpus), size)]


def _uri(config: TrainConfig, name: str) -> str:
    return f"{config.out}/reference/{name}.npz"


def _keep(
    reference: npt.NDArray[np.float32], corpus: Corpus, name: str, *, config: TrainConfig
) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, keys=corpus.keys, logprobs=reference)
    filesystem, path = artefacts.resolve(_uri(config, name))
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(buffer.getvalue())


def _kept(corpus: Corpus, name: str, *, config: TrainConfig) -> npt.NDArray[np.float32] | None:
    """Those of an earlier start, if they are of the same rows."""
    filesystem, path = artefacts.resolve(_uri(config, name))
    try:
        with filesystem.open_input_stream(path) as stream:
            content = stream.read()
    except FileNotFoundError:
        return None
    with np.load(io.BytesIO(content)) as found:
        if not np.array_equal(found["keys"], corpus.keys):
            return None
        logprobs: npt.NDArray[np.float32] = found["logprobs"]
    return logprobs
