"""A conversation as the token ids that a model of ours, an upstream, is given.

A model says itself how: by the chat template in its folder, or, where this project has trained it,
by the prompt in its export's manifest.
"""

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import tokenizers

from aligner.adapters.hf_tokenizer import TOKENIZER_FILE, HfTokenizer
from aligner.errors import ConfigError, ContractMismatch, DataError
from aligner.generation import Messages
from aligner.manifest import FILE_NAME, Manifest
from aligner.prompt import PromptTemplate
from aligner.records import Turn
from aligner.tokens import encode_question

_ID_FILES: Final = ("generation_config.json", "config.json")


class Unsuitable(Exception):
    """The model's chat template does not take this conversation: its roles, say."""


class ChatPrompt(Protocol):
    """What the upstream's engine needs."""

    def encode(self, messages: Messages) -> list[int]:
        """Ids of the prompt that the model continues.

        Raises:
            Unsuitable: The model is not made for such a conversation.
        """


def load(folder: Path, *, where: str) -> ChatPrompt:
    """How the model in ``folder`` is asked; ``where`` is the setting that names it.

    Raises:
        ConfigError: It has no chat template, and was not trained to answer questions either.
        ContractMismatch: Its prompt is rendered otherwise here than in training.
    """
    manifest = folder / FILE_NAME
    if manifest.is_file():
        return _trained(folder, Manifest.model_validate_json(manifest.read_text()), where=where)
    settings = _json_in(folder / "tokenizer_config.json")
    if "chat_template" not in settings and not (folder / "chat_template.jinja").is_file():
        raise ConfigError(
            f"{where}: the model in {folder} has no chat template, so it cannot be asked "
            "questions; name a chat model."
        )
    return _ChatTemplate(folder)


def end_ids(folder: Path, tokenizer: HfTokenizer) -> tuple[int, ...]:
    """All tokens that end a reply; chat models often have one more than their tokenizer tells."""
    found = {tokenizer.eos_token_id}
    for name in _ID_FILES:
        told = _json_in(folder / name).get("eos_token_id")
        found.update(one for one in (told if isinstance(told, list) else [told]) if one is not None)
    return tuple(sorted(found))


def _trained(folder: Path, manifest: Manifest, *, where: str) -> "_TrainedPrompt":
    objective = manifest.spec.get("objective") or {}
    if (prompt := objective.get("question_prompt")) is None:
        raise ContractMismatch(
            f"{where}: the export in {folder} corrects answers and is no upstream; name one that "
            "was trained with objective.kind=sft or dpo."
        )
    template = manifest.require_fingerprint(where=where)
    return _TrainedPrompt(prompt, template, HfTokenizer.load(folder))


@dataclass(frozen=True, slots=True)
class _TrainedPrompt:
    """The very prompt that training rendered."""

    question_prompt: str
    template: PromptTemplate
    tokenizer: HfTokenizer

    def encode(self, messages: Messages) -> list[int]:
        """Training knew no system messages; they stand in front of the first text."""
        system = [message["content"] for message in messages if message["role"] == "system"]
        turns = [
            Turn("assistant" if message["role"] == "assistant" else "user", message["content"])
            for message in messages
            if message["role"] != "system"
        ]
        if not turns:
            raise Unsuitable
        turns[0] = Turn(turns[0].role, "\n\n".join([*system, turns[0].text]))
        return encode_question(
            turns[-1].text,
            tuple(turns[:-1]),
            question_prompt=self.question_prompt,
            template=self.template,
            tokenizer=self.tokenizer,
        )


class _ChatTemplate:
    """The template of the model's makers, whose special tokens are tokens in it alone.

    A special token's name in somebody's text would else end the message and begin another, in
    the name of whom they like. Such a name is kept out while the template is rendered, and
    encoded as the characters that it is.
    """

    def __init__(self, folder: Path) -> None:
        # In the function: whoever has an engine has it loaded already.
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        try:
            self._special = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        except Exception as exc:  # the library raises bare Exception for broken JSON
            raise DataError(f"{folder}: its tokenizer cannot be read ({exc}).") from None
        self._plain = HfTokenizer.load(folder)
        added = self._special.get_added_tokens_decoder().values()
        names = sorted((one.content for one in added if one.special), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def encode(self, messages: Messages) -> list[int]:
        """The rendered conversation, up to where the reply begins."""
        import jinja2

        hidden = _Hidden(self._names)
        shielded = [{**one, "content": hidden.hide(one["content"])} for one in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                shielded, tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateError:
            raise Unsuitable from None
        ids: list[int] = []
        for piece, name in hidden.pieces(str(text)):
            ids += self._special.encode(piece, add_special_tokens=False).ids
            ids += self._plain.encode(name) if name else []
        return ids


class _Hidden:
    """Names that were taken out of texts, and the marks that stand there instead."""

    def __init__(self, names: re.Pattern[str]) -> None:
        self._names = names
        self._found: list[str] = []
        # Nobody can guess the marks and write one.
        self._key = secrets.token_hex(8)

    def hide(self, text: str) -> str:
        """``text`` with a mark in each name's place."""
        return self._names.sub(self._mark, text)

    def pieces(self, text: str) -> Iterable[tuple[str, str]]:
        """What stands between the marks in ``text``, each with the name that comes after it."""
        parts: Sequence[str] = re.split(f"{self._key}-([0-9]+);", text)
        names = [self._found[int(number)] for number in parts[1::2]]
        return zip(parts[::2], [*names, ""], strict=True)

    def _mark(self, match: re.Match[str]) -> str:
        self._found.append(match[0])
        return f"{self._key}-{len(self._found) - 1};"


def _json_in(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
