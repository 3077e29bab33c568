"""Named filters: each returns ``"keep"`` or the reason for dropping a row."""

import re
from collections.abc import Callable
from typing import Final

from aligner.metrics import similarity
from aligner.prompt import BUILT_IN
from aligner.records import Triple
from aligner.refusals import is_refusal

KEEP = "keep"

Filter = Callable[[Triple], str]

TEXTS: Final = ("question", "answer", "correction")


def blank_text(row: Triple) -> str:
    """Drop rows without words in one of the three texts."""
    for name in TEXTS:
        if not getattr(row, name).strip():
            return f"blank_{name}"
    return KEEP


def length(row: Triple, *, max_chars: int) -> str:
    """Drop rows with a text of more than ``max_chars`` Unicode code points."""
    for name in TEXTS:
        if len(getattr(row, name)) > max_chars:
            return f"long_{name}"
    return KEEP


def surrogates(row: Triple) -> str:
    """Drop rows with lone surrogates: they are no text, Parquet and tokenizers refuse them."""
    texts = (row.question, row.answer, row.correction, *(turn.text for turn in row.history))
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        return "broken_unicode"
    return KEEP


def unchanged(row: Triple) -> str:
    """Drop rows whose correction is the answer, byte for byte."""
    return "unchanged" if row.is_identity else KEEP


def whitespace_edit(row: Triple) -> str:
    """Drop rows whose correction differs from the answer in white space alone."""
    if not row.is_identity and row.correction.split() == row.answer.split():
        return "whitespace_edit"
    return KEEP


def edit_size(row: Triple, *, min_similarity: float = 0.0, max_similarity: float = 1.0) -> str:
    """Drop corrections that are another answer rather than an edit, or hardly an edit at all.

    Identity rows are neither.
    """
    if row.is_identity:
        return KEEP
    alike = similarity(row.answer, row.correction)
    if alike < min_similarity:
        return "dissimilar"
    return "barely_edited" if alike > max_similarity else KEEP


def length_ratio(row: Triple, *, smallest: float, largest: float | None) -> str:
    """Drop corrections that are much shorter or longer than their answers, in code points."""
    before, after = len(row.answer), len(row.correction)
    if after < smallest * before:
        return "shrunk"
    return "grown" if largest is not None and after > largest * before else KEEP


def refused(row: Triple) -> str:
    """Drop corrections that refuse where the answer did not."""
    new = is_refusal(row.correction) and not is_refusal(row.answer)
    return "refusal_correction" if new else KEEP


def refused_answer(row: Triple) -> str:
    """Drop answers that refuse; there is little to correct in them."""
    return "refusal_answer" if is_refusal(row.answer) else KEEP


def echo(row: Triple) -> str:
    """Drop corrections that begin by repeating a question of some length, or consist of it."""
    asked, said = _words(row.question), _words(row.correction)
    repeats = said == asked or (len(asked) >= _ECHO_WORDS and said[: len(asked)] == asked)
    own = _words(row.answer)[: len(asked)] == asked
    return "echo" if asked and repeats and not own else KEEP


_ECHO_WORDS: Final = 5
"""Shorter questions are often repeated in a good answer: "Who was X? X was ..."."""


def template_leak(row: Triple) -> str:
    """Drop corrections that hold a piece of a prompt's frame which the answer does not hold."""
    for mark in _FRAMES:
        if mark in row.correction and mark not in row.answer and mark not in row.question:
            return "template_leak"
    return KEEP


_SPECIALS: Final = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>"),
    *("<|start_header_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"),
    *("<<SYS>>", "<|user|>", "<|assistant|>", "<|system|>", "### Instruction:", "### Response:"),
)
"""What chat templates put around messages."""

_FRAMES: Final = tuple(
    sorted(
        {
            mark
            for template in BUILT_IN.values()
            for piece in re.split(r"\{(?:question|answer)\}", template.template)
            # A frame of several parts leaks one part at a time.
            for mark in re.split(r"(?<=:) +|\n", piece.strip())
            # Plain words before a colon open lines of any dialogue.
            if mark.endswith(":") and mark not in ("USER:", "ASSISTANT:")
        }
        | {*_SPECIALS}
    )
)
"""The parts of the built-in prompts, and chat templates' marks. They stand in none of the 3,739
corrections of four published sets."""


def language(
    row: Triple, *, detect: Callable[[str], str], allowed: frozenset[str], min_chars: int
) -> str:
    """Drop rows with a text in a language that is not ``allowed`` (``en``, ``de``, ...).

    ``detect`` names the language of a text; those shorter than ``min_chars`` are not asked about,
    since nobody can tell.
    """
    for name in TEXTS:
        text = getattr(row, name)
        if len(text) >= min_chars and detect(text) not in allowed:
            return f"language_{name}"
    return KEEP


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def first_reason(row: Triple, filters: tuple[Filter, ...]) -> str:
    """The first filter's reason to drop ``row``, or ``"keep"``."""
    for judge in filters:
        if (reason := judge(row)) != KEEP:
            return reason
    return KEEP
