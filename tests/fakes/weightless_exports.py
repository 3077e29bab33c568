"""Exports with all that is checked before an engine starts, and whose tokens are bytes."""

import json
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers
from tokenizers.decoders import ByteLevel

from aligner import artefacts, exports
from aligner.manifest import Manifest
from aligner.prompt import PLAIN

CONTEXT_TOKENS = 1024


def write_base(folder: Path) -> Path:
    """A model that adapters may be added to."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"base")
    return folder


def write_export(uri: str, *, base: Path | None = None) -> Manifest:
    """An Aligner, with an adapter to ``base`` if there is one; no two are the same."""
    facts = {}
    if base is not None:
        adapter = exports.Adapter(base=str(base), base_hash=exports.weights_hash(base), rank=4)
        facts = {exports.ADAPTER: adapter.model_dump()}
    with artefacts.staging(uri) as staging:
        limits = {"max_position_embeddings": CONTEXT_TOKENS}
        (staging.path / "config.json").write_text(json.dumps(limits))
        (staging.path / "model.safetensors").write_bytes(uri.encode())
        _write_tokenizer(staging.path)
        manifest: Manifest = staging.publish(
            kind="export",
            name=Path(uri).name,
            prompt=PLAIN,
            prompt_fingerprint=PLAIN.fingerprint,
            facts=facts,
        )
    return manifest


def _write_tokenizer(folder: Path) -> None:
    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
