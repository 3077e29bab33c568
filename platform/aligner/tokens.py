"""Text to token ids. Shapes: P = prompt tokens, C = correction tokens with EOS, T = P + C.

Prompt and correction are tokenised apart, in training and in inference alike, so that the loss
mask cannot slip where a tokenizer would merge characters across the border.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from aligner.prompt import PromptTemplate
from aligner.records import Triple, Turn

IGNORED: Final = -100
"""Label of a position without loss (PyTorch's and Transformers' default ``ignore_index``)."""

_ANYTHING: Final = "\uffff"
"""Stands in no text, so that two texts are different where it stands."""


class Tokenizer(Protocol):
    """What the platform needs of a tokenizer."""

    @property
    def bos_token_id(self) -> int | None:
        """Id of the beginning of a sequence, ``None`` where the model has none."""

    @property
    def eos_token_id(self) -> int:
        """Id that ends a correction."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing added, and a special token's name is ordinary text."""

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids`` without special tokens."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training example."""

    prompt_ids: list[int]
    """P ids, the beginning of the sequence included."""
    target_ids: list[int]
    """C ids, the end of the sequence included: loss falls on these alone."""

    @property
    def input_ids(self) -> list[int]:
        """T ids."""
        return self.prompt_ids + self.target_ids

    @property
    def labels(self) -> list[int]:
        """T labels: :data:`IGNORED` on the prompt, the ids on the correction and EOS."""
        return [IGNORED] * len(self.prompt_ids) + self.target_ids

    def __len__(self) -> int:
        """T, the number of tokens."""
        return len(self.prompt_ids) + len(self.target_ids)


def encode_prompt(
    question: str,
    answer: str,
    history: tuple[Turn, ...] = (),
    *,
    template: PromptTemplate,
    tokenizer: Tokenizer,
) -> list[int]:
    """P ids of the rendered prompt, as the Aligner must see them everywhere."""
    text = template.render(question, answer, history)
    return encode_text(text, add_bos=template.add_bos, tokenizer=tokenizer)


def encode_begun_prompt(
    question: str,
    answer: str,
    history: tuple[Turn, ...] = (),
    *,
    template: PromptTemplate,
    tokenizer: Tokenizer,
) -> list[int]:
    """The first ids of the prompt for an answer of which ``answer`` is the beginning.

    What may yet be escaped is left out, and so is what the tokenizer writes otherwise where the
    text goes on. One that looks further ahead than a token or two may still change the last ids.
    """
    known = template.frame.begun(answer)
    one, other = (
        encode_prompt(question, text, history, template=template, tokenizer=tokenizer)
        for text in (known + _ANYTHING, answer)
    )
    pairs = enumerate(zip(one, other, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
    # The last one may be merged with what comes next.
    return one[: max(0, same - 1)]


def encode_question(
    question: str,
    history: tuple[Turn, ...] = (),
    *,
    question_prompt: str,
    template: PromptTemplate,
    tokenizer: Tokenizer,
) -> list[int]:
    """P ids of a prompt without an answer, for an upstream that this project has trained.

    ``question_prompt`` holds ``{question}`` once; earlier turns stand in front of the question.
    """
    begin, end = question_prompt.split("{question}")
    text = f"{begin}{template.render_history(history)}{question}{end}"
    return encode_text(text, add_bos=template.add_bos, tokenizer=tokenizer)


def encode_text(text: str, *, add_bos: bool, tokenizer: Tokenizer) -> list[int]:
    """Ids of a prompt's text, behind the beginning of a sequence if the tokenizer has one."""
    ids = tokenizer.encode(text)
    if add_bos and tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id, *ids]
    return ids


def encode_example(row: Triple, *, template: PromptTemplate, tokenizer: Tokenizer) -> Example:
    """Tokenise one row; nothing is ever truncated (callers set rows that are too long aside).

    The correction is escaped as the answer in the prompt is: a copy stays a copy.
    """
    return Example(
        prompt_ids=encode_prompt(
            row.question, row.answer, row.history, template=template, tokenizer=tokenizer
        ),
        target_ids=[
            *tokenizer.encode(template.frame.escape(row.correction)),
            tokenizer.eos_token_id,
        ],
    )


def fitness(example: Example, *, max_tokens: int) -> str:
    """``"keep"`` or the reason why ``example`` cannot be trained on."""
    if len(example) > max_tokens:
        return "too_long"
    # Without any token before it, the first of the correction cannot be predicted.
    return "keep" if example.prompt_ids else "empty_prompt"
