"""What training works on: tokenised splits, the tokenizer, and what they were made from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aligner import artefacts
from aligner.adapters.hf_tokenizer import HfTokenizer, TokenizerFiles, hash_files, read_files
from aligner.errors import ConfigError, ContractMismatch, DataError
from aligner.manifest import FILE_NAME, FunnelStep, Manifest, Parent
from aligner.prompt import PromptTemplate
from aligner.records import Triple
from aligner_jobs.config.model import PretrainedModel, ScratchModel
from aligner_jobs.config.objective import CorrectionObjective, DpoObjective
from aligner_jobs.config.train import PhaseName, TrainConfig
from aligner_jobs.train.corpus import Corpus, gather, local_corpus
from aligner_jobs.train.encoding import EncodeRows, Spread, UnpackRows, Work, in_this_process
from aligner_jobs.train.model import local_folder, max_positions, require_safetensors
from aligner_jobs.train.shards import Piece, pieces, read_rows, sample
from aligner_jobs.train.tokenizer import train_tokenizer

PHASES: tuple[PhaseName, ...] = ("warmup", "correction")
_SPLITS: Mapping[PhaseName, str] = {"warmup": "warmup", "correction": "train"}
_HELDOUT = "heldout"


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known before any row is tokenised: enough to say that training can begin."""

    template: PromptTemplate
    tokenizer: TokenizerFiles
    parents: tuple[Parent, ...]
    pieces: Mapping[str, Sequence[Piece]]
    """By split."""
    packed: Mapping[str, Sequence[Piece]]
    """The same rows, tokenised as they are wanted; empty where the dataset has none such."""
    set_aside: Mapping[str, Mapping[str, int]]
    """Rows that are not in ``packed``, by split and reason."""


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that the workers need besides the config; made once, by the driver."""

    run_name: str
    template: PromptTemplate
    tokenizer: TokenizerFiles
    phases: Mapping[PhaseName, Corpus]
    heldout: Corpus
    copy_sample: tuple[Triple, ...]
    """Held-out rows to correct."""
    identity_sample: tuple[Triple, ...]
    """Held-out rows whose answer is right already."""
    parents: tuple[Parent, ...]
    funnels: Mapping[str, FunnelStep]
    """What was set aside, by split."""

    def total_steps(self, phase: PhaseName, config: TrainConfig) -> int:
        """Optimiser steps of one phase."""
        return config.phase(phase).epochs * self.steps_per_epoch(phase, config)

    def steps_per_epoch(self, phase: PhaseName, config: TrainConfig) -> int:
        """Global batches of one epoch; the last may be smaller."""
        return -(-len(self.phases[phase]) // config.global_batch_size)


def survey(config: TrainConfig, dataset: Manifest) -> Survey:
    """Look at dataset and model, and read no row but those that a new tokenizer is trained on.

    Raises:
        DataError: There are no rows to train on, or the model's folder is not usable.
        ContractMismatch: Dataset and code, or dataset and model, disagree on the prompt.
    """
    template = dataset.require_fingerprint(where=config.dataset)
    found = {split: pieces(config.dataset, split) for split in (*_SPLITS.values(), _HELDOUT)}
    if not any(piece.rows for piece in found["train"]):
        raise DataError(f"{config.dataset}/train: holds no rows; build a larger dataset.")
    files, parent = _tokenizer(config, template=template)
    packed, set_aside = _packed(config, dataset, files)
    return Survey(
        template=template,
        tokenizer=files,
        parents=(dataset.as_parent(config.dataset), *([parent] if parent else [])),
        pieces=found,
        packed=packed,
        set_aside=set_aside,
    )


def load(
    config: TrainConfig, dataset: Manifest, found: Survey, *, spread: Spread = in_this_process
) -> Material:
    """Tokenise what ``found`` names.

    Raises:
        DataError: No row is left to train on, or to judge an early stop by, or a file is broken.
    """
    encode = EncodeRows(found.tokenizer, found.template, config.objective, config.max_length_tokens)
    corpora: dict[str, Corpus] = {}
    funnels: dict[str, FunnelStep] = {}
    for split in _SPLITS.values():
        corpora[split], funnels[split] = _corpus(config, found, split, encode, spread)
    if not len(corpora["train"]):
        raise DataError(
            f"{config.dataset}/train: none of {funnels['train'].rows_in} rows fits into "
            f"max_length_tokens={config.max_length_tokens}; raise it."
        )
    rows, generate_rows = config.heldout.rows, config.heldout.generate_rows
    # The smaller sample is the beginning of the larger one.
    drawn = sample(read_rows(config.dataset, _HELDOUT), max(rows, generate_rows))
    heldout, verdicts = local_corpus(
        [encode.table(drawn[:rows])], documents_per_row=_documents(config)
    )
    funnels[_HELDOUT] = _funnel(_HELDOUT, verdicts)
    if config.early_stop is not None and not len(heldout):
        raise DataError(
            f"{config.dataset}/heldout: no row fits into max_length_tokens="
            f"{config.max_length_tokens}, and early_stop judges by them; set early_stop=null, or "
            "build the dataset with more held-out rows."
        )
    identical = (row for row in read_rows(config.dataset, _HELDOUT) if row.is_identity)
    return Material(
        run_name=config.run_name(dataset.content_hash),
        template=found.template,
        tokenizer=found.tokenizer,
        phases={phase: corpora[split] for phase, split in _SPLITS.items()},
        heldout=heldout,
        copy_sample=tuple(drawn[:generate_rows]),
        identity_sample=tuple(sample(identical, generate_rows)),
        parents=found.parents,
        funnels=funnels,
    )


def _corpus(
    config: TrainConfig, found: Survey, split: str, encode: EncodeRows, spread: Spread
) -> tuple[Corpus, FunnelStep]:
    """One split to train on; only Aligners have a warm-up on identity rows."""
    aligner = isinstance(config.objective, CorrectionObjective)
    if split == "warmup" and not aligner:
        return gather([], documents_per_row=_documents(config))[0], _funnel(split, {})
    work: Work = encode
    chosen = found.pieces[split]
    if split in found.packed:
        work, chosen = UnpackRows(config.max_length_tokens), found.packed[split]
    corpus, verdicts = gather(spread(work, chosen), documents_per_row=_documents(config))
    return corpus, _funnel(split, Counter(verdicts) + Counter(found.set_aside.get(split, {})))


def _packed(
    config: TrainConfig, dataset: Manifest, files: TokenizerFiles
) -> tuple[dict[str, list[Piece]], dict[str, dict[str, int]]]:
    """The dataset's packs, if they hold the tokens that this run would make of its rows."""
    packed = dataset.facts.get("packing")
    if (
        packed is None
        or not isinstance(config.objective, CorrectionObjective)
        or packed["tokenizer_hash"] != hash_files(files)
        or packed["max_tokens"] < config.max_length_tokens
    ):
        return {}, {}
    splits = _SPLITS.values()
    return (
        {split: pieces(config.dataset, f"packed/{split}") for split in splits},
        {split: packed["splits"][split]["set_aside"] for split in splits},
    )


def _documents(config: TrainConfig) -> int:
    return 2 if isinstance(config.objective, DpoObjective) else 1


def _funnel(split: str, verdicts: Mapping[str, int]) -> FunnelStep:
    dropped = {verdict: count for verdict, count in verdicts.items() if verdict != "keep"}
    return FunnelStep(
        step=f"{split}_length",
        rows_in=sum(verdicts.values()),
        rows_out=verdicts.get("keep", 0),
        dropped=dict(sorted(dropped.items())),
    )


def _tokenizer(
    config: TrainConfig, *, template: PromptTemplate
) -> tuple[TokenizerFiles, Parent | None]:
    """The tokenizer's files, and the export they come from where it is one of ours."""
    spec = config.model
    if isinstance(spec, ScratchModel):
        rows = read_rows(config.dataset, "train")
        return train_tokenizer(rows, template=template, vocab_size=spec.vocab_size), None
    folder = local_folder(spec)
    require_safetensors(folder)
    longest = max_positions(folder)
    if longest is not None and config.max_length_tokens > longest:
        raise ConfigError(
            f"max_length_tokens={config.max_length_tokens}: {folder} was made for at most "
            f"{longest}; lower it."
        )
    # Whatever is wrong with it is told here, under the folder's own name.
    HfTokenizer.load(folder)
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
