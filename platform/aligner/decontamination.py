"""Evaluation questions among the training questions: whoever trained on them is not measured.

What is compared are words (see :mod:`aligner.shingles`), so that case, punctuation and Unicode
forms hide nothing. There are two rules.

- A text of the user is leaked if it has ``ngram_words`` words in a row in common with an evaluation
  question (13, as GPT-3's authors chose), or all words of a shorter one. Templates need that: "What
  is the boiling point of neon?" shares six of its seven words with hundreds of other questions.
- Below :data:`MIN_WORDS` words ("What is love?") that would strike at half of the language. Such a
  question is leaked if the training conversation begins with the evaluation conversation.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aligner.records import Question
from aligner.shingles import Hashes, hash_of, ngrams, words

MIN_WORDS: Final = 6


@dataclass(frozen=True, slots=True)
class _Keys:
    """Sorted hashes and the number of the evaluation set of each."""

    hashes: Hashes
    sets: NDArray[np.int64]

    @classmethod
    def of(cls, hashes: Hashes, sets: NDArray[np.int64]) -> "_Keys":
        # Of equal hashes the first stays, and with it the set that was named first.
        hashes, firsts = np.unique(hashes, return_index=True)
        return cls(hashes, sets[firsts])

    def lookup(self, hashes: Hashes) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Which of ``hashes`` are among these, and of which sets."""
        places = np.searchsorted(self.hashes, hashes)
        places[places == len(self.hashes)] = 0
        known = np.flatnonzero(self.hashes[places] == hashes) if len(self.hashes) else places[:0]
        return known, self.sets[places[known]]


@dataclass(frozen=True, slots=True)
class LeakIndex:
    """Evaluation questions, ready for comparison: a few numpy arrays, cheap to share."""

    names: tuple[str, ...]
    """Of the evaluation sets."""
    runs: Mapping[int, _Keys]
    """By their number of words, runs of words of the questions that are not too short."""
    conversations: _Keys
    """Whole conversations that end in a question which is."""

    def leaks(self, asked: Sequence[Question]) -> list[str | None]:
        """For each training question the evaluation set that it is leaked from, if any."""
        turns = [list(_user_words(question)) for question in asked]
        texts = [text for said in turns for text in said]
        rows = np.repeat(np.arange(len(asked)), [len(said) for said in turns])
        found = np.full(len(asked), len(self.names), dtype=np.int64)
        for size, keys in self.runs.items():
            grams = ngrams(texts, size=size, pad=False)
            known, sets = keys.lookup(grams.hashes)
            np.minimum.at(found, rows[grams.owners[known]], sets)
        begun = [hash_of(prefix) for said in turns for prefix in itertools.accumulate(said)]
        known, sets = self.conversations.lookup(np.array(begun, dtype=np.uint64))
        np.minimum.at(found, rows[known], sets)
        return [(*self.names, None)[number] for number in found.tolist()]


def index(sets: Mapping[str, Iterable[Question]], *, ngram_words: int) -> LeakIndex:
    """The index of the questions of ``sets``, by name; questions without a word are left out.

    Of a conversation the last question counts, unless it is too short to tell anything alone.
    """
    runs: dict[int, list[tuple[list[str], int]]] = defaultdict(list)
    conversations: list[tuple[int, int]] = []
    for number, questions in enumerate(sets.values()):
        for question in dict.fromkeys(questions):
            asked = words(question.question)
            if len(asked) >= MIN_WORDS:
                runs[min(len(asked), ngram_words)].append((asked, number))
            elif asked:
                said = list(itertools.chain.from_iterable(_user_words(question)))
                conversations.append((hash_of(said), number))
    return LeakIndex(
        names=tuple(sets),
        runs={size: _run_keys(found, size=size) for size, found in sorted(runs.items())},
        conversations=_Keys.of(
            np.array([digest for digest, _ in conversations], dtype=np.uint64),
            np.array([number for _, number in conversations], dtype=np.int64),
        ),
    )


def _run_keys(questions: list[tuple[list[str], int]], *, size: int) -> _Keys:
    grams = ngrams([asked for asked, _ in questions], size=size, pad=False)
    sets = np.array([number for _, number in questions], dtype=np.int64)
    return _Keys.of(grams.hashes, sets[grams.owners])


def _user_words(question: Question) -> Iterator[list[str]]:
    """What the user said, turn by turn; evaluation sets hold questions, not answers."""
    for turn in question.history:
        if turn.role == "user":
            yield words(turn.text)
    yield words(question.question)
