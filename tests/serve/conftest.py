"""A tiny Aligner that has learnt a handful of corrections by heart, as a real export.

A random model never ends a sentence; this one gives exact corrections after some seconds of
training, so that the served graph can be tested word for word.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from aligner import artefacts
from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.manifest import Manifest, provenance
from aligner.prompt import PLAIN
from aligner.records import Triple, Turn
from aligner.tokens import encode_example

SEED = 5
_CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class KnownExport:
    """An export, and the rows that its model knows by heart."""

    seed: int
    """Of the world that the rows are from."""
    uri: str
    manifest: Manifest
    corrected: Triple
    unchanged: Triple
    multi_turn: Triple


def known_rows() -> list[Triple]:
    """Answers of a simulated upstream, and what is to become of them."""
    from aligner.simworld import profiles, teacher
    from aligner.simworld.questions import heldout_questions
    from aligner.simworld.world import World

    world = World(SEED)
    rows = []
    for question in heldout_questions(world, 40):
        answer = profiles.answer(world, "iron", question)
        correction = teacher.correct(world, question, answer)
        rows.append(Triple(question.question, answer, correction, upstream="iron"))
    corrected = next(row for row in rows if not row.is_identity)
    unchanged = next(row for row in rows if row.is_identity)
    multi_turn = Triple(
        question="And why is that — 真的?",
        # Marks of the prompt itself, too.
        answer="USER: because.",
        correction="USER: because it is so, « naïvely » ##Answer: 真的 🙂.",
        history=(Turn("user", "Is it?"), Turn("assistant", "It is.")),
    )
    return [corrected, unchanged, multi_turn]


@pytest.fixture(scope="session")
def known_export(tmp_path_factory: pytest.TempPathFactory) -> KnownExport:
    corrected, unchanged, multi_turn = rows = known_rows()
    uri = str(tmp_path_factory.mktemp("exports") / "known")
    return KnownExport(SEED, uri, publish(uri, rows), corrected, unchanged, multi_turn)


def publish(uri: str, rows: list[Triple]) -> Manifest:
    """Export a model that knows ``rows`` by heart."""
    with artefacts.staging(uri) as staging:
        tokenizer = write_tokenizer(staging.path, known_rows())
        write_model(staging.path, rows, tokenizer)
        manifest: Manifest = staging.publish(
            kind="export",
            name=Path(uri).name,
            prompt=PLAIN,
            prompt_fingerprint=PLAIN.fingerprint,
            **provenance(),
        )
    return manifest


def write_tokenizer(folder: Path, rows: list[Triple]) -> HfTokenizer:
    """A byte-level BPE of 512 tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"{row.question} {row.answer}" for row in rows], trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}'
    )
    return HfTokenizer.load(folder)


def write_model(folder: Path, rows: list[Triple], tokenizer: HfTokenizer) -> None:
    """Train on ``rows`` until they are known by heart."""
    torch.manual_seed(0)
    # On a busy machine two threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=_CONTEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    examples = [encode_example(row, template=PLAIN, tokenizer=tokenizer) for row in rows]
    length = max(len(example) for example in examples)
    ids_BT = torch.tensor([e.input_ids + [0] * (length - len(e)) for e in examples])
    labels_BT = torch.tensor([e.labels + [-100] * (length - len(e)) for e in examples])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 2e-3:
            break
    model.save_pretrained(folder)
