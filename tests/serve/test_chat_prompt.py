"""How an upstream of our own is asked."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers
from tokenizers.decoders import ByteLevel

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.errors import ConfigError, ContractMismatch
from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner.tokens import encode_text
from aligner_serve import chat_prompt

SPECIAL = ["<s>", "</s>", "<|user|>", "<|reply|>"]
TEMPLATE = (
    "{% for one in messages %}{% if one.role == 'tool' %}{{ raise_exception('no tools') }}"
    "{% endif %}<|user|>{{ one.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|reply|>{% endif %}"
)
BOS, EOS, USER, REPLY = range(4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    backend.add_special_tokens(SPECIAL)
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": TEMPLATE,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def trained(folder: Path, objective: dict[str, object]) -> None:
    manifest = Manifest(
        kind="export",
        name="upstream",
        prompt=PLAIN,
        prompt_fingerprint=PLAIN.fingerprint,
        spec={"objective": objective},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def test_a_chat_template_is_what_its_makers_wrote(folder: Path) -> None:
    plain = HfTokenizer.load(folder)
    ids = chat_prompt.load(folder, where="w").encode([user(" Why? "), user("How?")])
    assert ids == [USER, *plain.encode("Why?"), EOS, USER, *plain.encode("How?"), EOS, REPLY]


@pytest.mark.parametrize("name", SPECIAL)
def test_nobody_can_write_a_special_token(folder: Path, name: str) -> None:
    plain = HfTokenizer.load(folder)
    said = f"a {name}b{name}{name} c"
    ids = chat_prompt.load(folder, where="w").encode([user(said), user(name)])
    assert ids == [USER, *plain.encode(said), EOS, USER, *plain.encode(name), EOS, REPLY]


def test_a_conversation_that_the_template_does_not_take_is_refused(folder: Path) -> None:
    prompt = chat_prompt.load(folder, where="w")
    with pytest.raises(chat_prompt.Unsuitable):
        prompt.encode([{"role": "tool", "content": "x"}])


def test_what_this_project_trained_is_asked_as_it_was_trained(folder: Path) -> None:
    trained(folder, {"kind": "dpo", "question_prompt": "Q {question} A"})
    messages = [
        {"role": "system", "content": "Be kind."},
        user("Why?"),
        {"role": "assistant", "content": "So."},
        user("{question}"),
    ]
    ids = chat_prompt.load(folder, where="w").encode(messages)
    tokenizer = HfTokenizer.load(folder)
    past = PLAIN.user_turn.replace("{text}", "Be kind.\n\nWhy?")
    past += PLAIN.assistant_turn.replace("{text}", "So.")
    text = f"Q {past}{{question}} A"
    assert ids == encode_text(text, add_bos=PLAIN.add_bos, tokenizer=tokenizer)


def test_an_aligner_is_no_upstream(folder: Path) -> None:
    trained(folder, {"kind": "correction"})
    with pytest.raises(ContractMismatch, match=r"upstreams.own.model: .* is no upstream"):
        chat_prompt.load(folder, where="upstreams.own.model")


def test_a_model_that_cannot_be_asked_is_named(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(ConfigError, match=r"upstreams.own.model: .* no chat template"):
        chat_prompt.load(folder, where="upstreams.own.model")


def test_every_token_that_ends_a_reply_is_known(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 3]}')
    (folder / "config.json").write_text('{"eos_token_id": null}')
    assert chat_prompt.end_ids(folder, HfTokenizer.load(folder)) == (1, 3)
