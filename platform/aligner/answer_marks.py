"""Finding the answer in the token ids of a prompt, by the marks that stand around it.

An engine's own processes see token ids and nothing else. The marks are told to them once, when the
engine starts; no mark stands inside a value (:mod:`aligner.frame`), so what is found is the answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aligner.config import StrictModel
from aligner.prompt import PromptTemplate
from aligner.tokens import Tokenizer, encode_prompt

_SHORTEST: Final = 2
"""Tokens of the mark behind the answer: one alone may stand in a correction, too."""

_PAIRS: Final = (
    ("Is it?", "Yes."),
    ("一", " 二\n"),
    ("- a\n\n", "\n\n1. b)"),
    ("x=1 ", "🙂"),
    ("Z", 'If "so":'),
)
"""What may stand beside a mark: where its tokens take in a part of these, they are no mark."""


class Marks(StrictModel):
    """Token ids around the answer in the prompts of one aligner; crosses processes as a dict."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    """The correction begins right behind it."""

    end_id: int
    """Ends a correction."""

    def find(self, ids: NDArray[np.int32]) -> tuple[slice, int] | None:
        """Where the answer stands in ``ids``, and where the correction begins.

        The last marks are taken: behind them may stand a part of the correction, and no mark.
        """
        after = _last(ids, self.after, end=len(ids))
        before = _last(ids, self.before, end=after)
        if before < 0:
            return None
        return slice(before + len(self.before), after), after + len(self.after)


def marks_of(template: PromptTemplate, tokenizer: Tokenizer) -> Marks | None:
    """The marks of an aligner's prompts, or ``None`` where its tokens have none.

    Tokens at a mark's edges that merge with what stands beside it are left out of it.
    """
    _, _, rest = template.template.partition("{question}")
    between, answer, after = rest.partition("{answer}")
    if not answer:
        # The answer stands before the question.
        return None
    prompts = [
        np.array(
            encode_prompt(question, text, template=template, tokenizer=tokenizer), dtype=np.int32
        )
        for question, text in _PAIRS
    ]
    before_ids, after_ids = tokenizer.encode(between), tokenizer.encode(after)
    before = next((ids for ids in _cut(before_ids, 1) if _in_all(ids, prompts)), ())
    behind = next((ids for ids in _cut(after_ids, _SHORTEST) if _ends_all(ids, prompts)), ())
    if not before or not behind:
        return None
    return Marks(before=before, after=behind, end_id=tokenizer.eos_token_id)


def marks_of_all(asking: Iterable[tuple[PromptTemplate, Tokenizer]]) -> list[Marks]:
    """The marks of several aligners' prompts, each once."""
    found = (marks_of(template, tokenizer) for template, tokenizer in asking)
    return list(dict.fromkeys(marks for marks in found if marks is not None))


def _cut(ids: Sequence[int], shortest: int) -> Iterator[tuple[int, ...]]:
    """``ids``, and what is left of it with ever more taken from its edges."""
    for length in range(len(ids), shortest - 1, -1):
        for begin in range(len(ids) - length, -1, -1):
            yield tuple(ids[begin : begin + length])


def _in_all(ids: tuple[int, ...], prompts: list[NDArray[np.int32]]) -> bool:
    return all(_last(one, ids, end=len(one)) >= 0 for one in prompts)


def _ends_all(ids: tuple[int, ...], prompts: list[NDArray[np.int32]]) -> bool:
    return all(tuple(one[-len(ids) :].tolist()) == ids for one in prompts)


def _last(ids: NDArray[np.int32], mark: tuple[int, ...], *, end: int) -> int:
    """Where ``mark`` stands for the last time in ``ids`` before ``end``; -1 if it does not."""
    places = end - len(mark) + 1
    if places <= 0:
        return -1
    found = np.ones(places, dtype=bool)
    for offset, token in enumerate(mark):
        found &= ids[offset : offset + places] == token
    where = np.flatnonzero(found)
    return int(where[-1]) if len(where) else -1
