"""What a dataset puts through the model: a sample of its rows, tokenised and packed as in training.

Rows are sorted by a hash of their content, so the first ones are a random sample.
"""

from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from aligner import artefacts
from aligner.adapters.hf_tokenizer import TOKENIZER_FILE, TokenizerFiles, read_files
from aligner.errors import DataError
from aligner.manifest import Manifest
from aligner.prompt import PromptTemplate
from aligner.records import Triple
from aligner_jobs.config.model import PretrainedModel, ScratchModel
from aligner_jobs.config.objective import CorrectionObjective, DpoObjective
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.train.batches import epoch_batches, passes_of
from aligner_jobs.train.corpus import Corpus, IntArray, local_corpus
from aligner_jobs.train.encoding import EncodeRows
from aligner_jobs.train.memory import Pass
from aligner_jobs.train.plan import Workload
from aligner_jobs.train.shards import read_rows
from aligner_jobs.train.tokenizer import train_tokenizer

_CHARACTERS_PER_TOKEN: Final = 4
"""Of English text in a vocabulary of 32,000."""


def workload_of(config: TrainConfig) -> Workload:
    """Measured on the dataset where it is at hand, else what ``config.plan`` assumes.

    Raises:
        DataError: The dataset is there and cannot be used.
    """
    if not config.plan.sample_rows or not _is_at_hand(config.dataset):
        return _assumed(config)
    dataset = artefacts.read_manifest(config.dataset, kind="dataset")
    template = dataset.require_fingerprint(where=config.dataset)
    rows = list(islice(read_rows(config.dataset, "train"), config.plan.sample_rows))
    files = _tokenizer(config, rows, template)
    if files is None:
        return _by_characters(config, dataset, rows, template)
    return _tokenised(config, dataset, rows, files, template)


def _is_at_hand(uri: str) -> bool:
    """A plan may be made far from the storage that the run will have."""
    try:
        return artefacts.exists(uri)
    except DataError:
        return False


def _assumed(config: TrainConfig) -> Workload:
    plan = config.plan
    rows: dict[PhaseName, int] = {"warmup": plan.rows // 5, "correction": plan.rows}
    return _from_means(
        config,
        _phases(config, rows),
        tokens=plan.tokens_per_row,
        targets=plan.tokens_per_row * plan.target_share,
        source="assumed (plan.rows, plan.tokens_per_row): no dataset was looked at",
    )


def _by_characters(
    config: TrainConfig, dataset: Manifest, rows: list[Triple], template: PromptTemplate
) -> Workload:
    prompts = [len(template.render(row.question, row.answer, row.history)) for row in rows]
    targets = [len(row.correction) for row in rows]
    return _from_means(
        config,
        _phases(config, _counted(dataset)),
        tokens=float(np.mean(prompts) + np.mean(targets)) / _CHARACTERS_PER_TOKEN + 1,
        targets=float(np.mean(targets)) / _CHARACTERS_PER_TOKEN + 1,
        source=f"{len(rows):,} rows of the dataset, at {_CHARACTERS_PER_TOKEN} characters a token: "
        "the tokenizer is not at hand",
    )


def _tokenised(
    config: TrainConfig,
    dataset: Manifest,
    rows: list[Triple],
    files: TokenizerFiles,
    template: PromptTemplate,
) -> Workload:
    encode = EncodeRows(files, template, config.objective, config.max_length_tokens)
    pairs = isinstance(config.objective, DpoObjective)
    corpus, verdicts = local_corpus([encode.table(rows)], documents_per_row=2 if pairs else 1)
    if not len(corpus):
        raise DataError(
            f"{config.dataset}/train: none of its first {len(rows)} rows fits into "
            f"max_length_tokens={config.max_length_tokens}; raise it."
        )
    everything = np.arange(len(corpus))
    kept = len(corpus) / sum(verdicts.values())
    counts = {phase: round(kept * count) for phase, count in _counted(dataset).items()}
    return Workload(
        rows=_phases(config, counts),
        tokens_per_row=corpus.tokens(everything) / len(corpus),
        targets_per_row=corpus.target_tokens(everything) / len(corpus),
        largest=largest_pass(config, corpus),
        source=f"{len(rows):,} rows of the dataset tokenised, {kept:.1%} of them fit",
    )


def largest_pass(config: TrainConfig, corpus: Corpus) -> Pass:
    """Over some global batches, put together as training does."""
    batches = epoch_batches(
        len(corpus), global_batch_size=config.global_batch_size, seed=config.seed, epoch=0
    )
    passes = [
        passes_of(corpus, rows, config=config, world_size=config.num_workers) for rows in batches
    ]
    parts = [part for batch in passes for parts in batch for part in parts if len(part)]
    return Pass(
        tokens=max(_tokens_of(config, corpus, part) for part in parts),
        targets=max(corpus.target_tokens(part) for part in parts),
        longest=int(corpus.row_lengths.max()),
        per_step=len(passes[0]),
    )


def _tokens_of(config: TrainConfig, corpus: Corpus, rows: IntArray) -> int:
    """Of one pass of one worker, padding included."""
    if config.packing:
        return corpus.tokens(rows)
    documents = corpus.documents_of(rows)
    return len(documents) * int(corpus.lengths[documents].max())


def _from_means(
    config: TrainConfig, rows: dict[PhaseName, int], *, tokens: float, targets: float, source: str
) -> Workload:
    """Passes as full as they can be."""
    limit = config.pack_tokens
    if not config.packing:
        limit = config.micro_batch_size * config.max_length_tokens
    own = config.global_batch_size * tokens / config.num_workers
    size = round(min(limit, max(own, config.max_length_tokens)))
    return Workload(
        rows=rows,
        tokens_per_row=tokens,
        targets_per_row=targets,
        largest=Pass(
            tokens=size,
            targets=round(size * targets / tokens),
            longest=config.max_length_tokens,
            per_step=max(1.0, own / size),
        ),
        source=source,
    )


def _counted(dataset: Manifest) -> dict[PhaseName, int]:
    return {
        "warmup": dataset.counts.get("warmup", 0),
        "correction": dataset.counts.get("train", 0),
    }


def _phases(config: TrainConfig, rows: dict[PhaseName, int]) -> dict[PhaseName, int]:
    """Only Aligners have a warm-up on identity rows."""
    aligner = isinstance(config.objective, CorrectionObjective)
    return rows if aligner else rows | {"warmup": 0}


def _tokenizer(
    config: TrainConfig, rows: list[Triple], template: PromptTemplate
) -> TokenizerFiles | None:
    """The checkpoint's where it is at hand; a new model's as it would be trained on ``rows``."""
    match config.model:
        case ScratchModel(vocab_size=vocab_size):
            return train_tokenizer(rows, template=template, vocab_size=vocab_size)
        case PretrainedModel(path=path):
            folder = Path(path)
            return read_files(folder) if (folder / TOKENIZER_FILE).is_file() else None
