"""What training works on: tokenised splits, the tokenizer, and what they were made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aligner import artefacts
from aligner.adapters.hf_tokenizer import TokenizerFiles, open_files, read_files
from aligner.errors import ConfigError, ContractMismatch, DataError
from aligner.manifest import FILE_NAME, FunnelStep, Manifest, Parent
from aligner.prompt import PromptTemplate
from aligner.records import Triple
from aligner_jobs.config.model import PretrainedModel, ScratchModel
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.train.batches import Corpus
from aligner_jobs.train.corpus import Tokenised, read_rows, sample, tokenise
from aligner_jobs.train.model import local_folder, max_positions, require_safetensors
from aligner_jobs.train.tokenizer import train_tokenizer

PHASES: tuple[PhaseName, ...] = ("warmup", "correction")
_SPLITS: Mapping[PhaseName, str] = {"warmup": "warmup", "correction": "train"}


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that the workers need besides the config; made once, by the driver."""

    run_name: str
    template: PromptTemplate
    tokenizer: TokenizerFiles
    phases: Mapping[PhaseName, Corpus]
    heldout: Corpus
    copy_sample: tuple[Triple, ...]
    """Held-out rows to correct at the end."""
    identity_sample: tuple[Triple, ...]
    """Held-out rows whose answer is right already."""
    parents: tuple[Parent, ...]
    funnels: Mapping[str, FunnelStep]
    """What was too long, by split."""

    def total_steps(self, phase: PhaseName, config: TrainConfig) -> int:
        """Optimiser steps of one phase."""
        return config.phase(phase).epochs * self.steps_per_epoch(phase, config)

    def steps_per_epoch(self, phase: PhaseName, config: TrainConfig) -> int:
        """Global batches of one epoch; the last may be smaller."""
        return -(-len(self.phases[phase]) // config.global_batch_size)


def prepare(config: TrainConfig, dataset: Manifest) -> Material:
    """Read and tokenise the dataset.

    Raises:
        DataError: No rows are left to train on, or the model's folder is not usable.
        ContractMismatch: Dataset and code, or dataset and model, disagree on the prompt.
    """
    template = dataset.require_fingerprint(where=config.dataset)
    parents = [dataset.as_parent(config.dataset)]
    rows = {split: read_rows(config.dataset, split) for split in (*_SPLITS.values(), "heldout")}
    if not rows["train"]:
        raise DataError(f"{config.dataset}/train: holds no rows; build a larger dataset.")
    files, parent = _tokenizer(config, rows["train"], template=template)
    tokenizer = open_files(files)
    splits = {
        split: tokenise(
            sample(found, config.heldout.rows) if split == "heldout" else found,
            split=split,
            template=template,
            tokenizer=tokenizer,
            max_length_tokens=config.max_length_tokens,
        )
        for split, found in rows.items()
    }
    _require_rows(config, splits["train"])
    size = config.heldout.generate_rows
    return Material(
        run_name=config.run_name(dataset.content_hash),
        template=template,
        tokenizer=files,
        phases={phase: splits[split].corpus for phase, split in _SPLITS.items()},
        heldout=splits["heldout"].corpus,
        copy_sample=tuple(sample(rows["heldout"], size)),
        identity_sample=tuple(sample([row for row in rows["heldout"] if row.is_identity], size)),
        parents=(*parents, *([parent] if parent else [])),
        funnels={split: tokenised.funnel for split, tokenised in splits.items()},
    )


def _tokenizer(
    config: TrainConfig, rows: list[Triple], *, template: PromptTemplate
) -> tuple[TokenizerFiles, Parent | None]:
    """The tokenizer's files, and the export they come from where it is one of ours."""
    spec = config.model
    if isinstance(spec, ScratchModel):
        return train_tokenizer(rows, template=template, vocab_size=spec.vocab_size), None
    folder = local_folder(spec)
    require_safetensors(folder)
    longest = max_positions(folder)
    if longest is not None and config.max_length_tokens > longest:
        raise ConfigError(
            f"max_length_tokens={config.max_length_tokens}: {folder} was made for at most "
            f"{longest}; lower it."
        )
    return read_files(folder), _own_export(spec, folder, template=template)


def _own_export(spec: PretrainedModel, folder: Path, *, template: PromptTemplate) -> Parent | None:
    """The export as a parent, if ``folder`` is one of ours and made with the same prompt."""
    if not (folder / FILE_NAME).is_file():
        return None
    manifest = artefacts.read_manifest(str(folder), kind="export")
    manifest.require_fingerprint(where=str(folder))
    if manifest.prompt_fingerprint != template.fingerprint:
        raise ContractMismatch(
            f"model.path={spec.path}: was trained on correction prompt "
            f"{manifest.prompt_fingerprint}, the dataset is made for {template.fingerprint}; "
            f"build the dataset with the model's prompt, or begin from another model."
        )
    return manifest.as_parent(spec.path)


def _require_rows(config: TrainConfig, train: Tokenised) -> None:
    if len(train.corpus):
        return
    raise DataError(
        f"{config.dataset}/train: none of {train.funnel.rows_in} rows fits into "
        f"max_length_tokens={config.max_length_tokens}; raise it."
    )
