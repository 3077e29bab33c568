"""Where a correction stands in its answer, and what it therefore says next.

A correction mostly copies, so that its next tokens can be guessed and a model need only check
them. :class:`Follower` keeps, for each place in the answer, what it would have cost to come to it:
an edit distance whose row is carried on token by token,

    cost'[i] = min(cost[i - 1]                   the answer's token was copied
                   cost[i - 1] + REPLACED        another was written in its stead
                   cost[i] + ADDED               one was written that the answer has not
                   cost[k] + SKIPPED + (i - k) SKIPPED_EACH      then copied: a part was left out
                   min(cost) + MOVED)            then copied: the text goes on elsewhere

The guess is what follows the cheapest place. Where the last tokens were no copy from there, they
are looked up in prompt and correction, and what followed the longest run of them is guessed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Support = Literal["start", "answer", "elsewhere"]
"""What a guess stands on: all of the correction so far is how the answer begins; the end of it is
a piece of the answer; or it stood elsewhere in prompt and correction."""

LONGEST_RUN: Final = 8
"""More tokens that were copied in a row say nothing further."""

_TOLD_BY: Final = 64
"""Last tokens by which a request is known again; bytes of so few are compared in no time."""

_REPLACED: Final = 1.0
_ADDED: Final = 1.2
_SKIPPED: Final = 0.6
_SKIPPED_EACH: Final = 0.03
_MOVED: Final = 2.5
_FORGOTTEN: Final = 6.0
"""No place costs more: what was long ago does not matter. All six were chosen on real triples."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What may come next."""

    ids: list[int]
    support: Support
    run: int
    """So many tokens at the end of the correction are copied from just before the guess."""


class Follower:
    """One correction and where it stands."""

    def __init__(self, prompt: NDArray[np.int32], answer: slice, *, end_id: int | None) -> None:
        """``answer`` is where the answer stands in ``prompt``; behind it ``end_id`` is guessed."""
        self._ids = np.array(prompt, dtype=np.int32)
        self.tokens = self._begin = len(prompt)
        """Of prompt and correction."""
        self._answer = self._ids[answer].copy()
        ends = [] if end_id is None or not len(self._answer) else [end_id]
        self._copied: list[int] = [*self._answer.tolist(), *ends]
        self._sure: int | None = None
        """The place, where a long run leaves no doubt; the row of costs then waits."""
        self._cost_I = np.empty(0)
        self._stand_at(0)
        self._skipped_I = np.arange(len(self._answer) + 1) * _SKIPPED_EACH

    def begins(self, ids: NDArray[np.int32]) -> bool:
        """Whether ``ids`` begin with prompt and correction, by the last of these.

        Where two are alike for so long and of one length, a guess for one suits the other.
        """
        begin = max(0, self.tokens - _TOLD_BY)
        own, theirs = self._ids[begin : self.tokens], ids[begin : self.tokens]
        return own.tobytes() == theirs.tobytes()

    def read(self, ids: Iterable[int]) -> None:
        """Go on by the next tokens of the correction."""
        for token in ids:
            self._append([token])
            if not len(self._answer):
                continue
            if self._sure is not None:
                if self._sure < len(self._answer) and self._copied[self._sure] == token:
                    self._sure += 1
                    continue
                self._stand_at(self._sure)
                self._sure = None
            self._follow(token)

    def pass_over(self, ids: Sequence[int]) -> None:
        """Go on by them without a look; where the correction stands behind them is not known."""
        self._append(ids)
        self._sure = None
        self._cost_I.fill(0.0)

    def guess(self, depth: int) -> Guess:
        """At most ``depth`` tokens that may come next, each found in prompt or correction."""
        if self._sure is not None:
            return self._from_answer(self._sure, depth, "answer", LONGEST_RUN)
        place = int(self._cost_I.argmin())
        run = self._run(place)
        written = self.tokens - self._begin
        if run == LONGEST_RUN:
            self._sure = place
        elif place == run == written:
            return self._from_answer(place, depth, "start", run)
        elif (found := self._looked_up(longer_than=run)) is not None:
            place, run = found
            ids = self._ids[place : min(place + depth, self.tokens)]
            return Guess(ids.tolist(), "elsewhere", run)
        return self._from_answer(place, depth, "answer", run)

    def _from_answer(self, place: int, depth: int, support: Support, run: int) -> Guess:
        return Guess(self._copied[place : place + depth], support, run)

    def _append(self, ids: Sequence[int]) -> None:
        end = self.tokens + len(ids)
        if end > len(self._ids):
            self._ids = np.resize(self._ids, 2 * end)
        self._ids[self.tokens : end] = ids
        self.tokens = end

    def _stand_at(self, place: int) -> None:
        """Begin a row of costs: the correction stands there."""
        self._cost_I = np.full(len(self._answer) + 1, _FORGOTTEN)
        self._cost_I[place] = 0.0

    def _follow(self, token: int) -> None:
        """Carry the row on by one token; its least is 0, before and after. I = places."""
        cost_I, skipped_I = self._cost_I, self._skipped_I
        next_I = cost_I + _ADDED
        np.minimum(next_I[1:], cost_I[:-1] + _REPLACED, out=next_I[1:])
        if len(same := np.flatnonzero(self._answer == token)):
            come_I = np.minimum.accumulate(cost_I - skipped_I)[same]
            come_I += skipped_I[same]
            come_I += _SKIPPED
            np.minimum(come_I, _MOVED, out=come_I)
            next_I[same + 1] = np.minimum(come_I, cost_I[same])
        next_I -= next_I.min()
        self._cost_I = np.minimum(next_I, _FORGOTTEN, out=next_I)

    def _run(self, place: int) -> int:
        """How many of the correction's last tokens stand in the answer right before ``place``."""
        longest, run = min(place, self.tokens - self._begin, LONGEST_RUN), 0
        last = self._ids[self.tokens - longest : self.tokens].tolist()
        while run < longest and last[-1 - run] == self._copied[place - 1 - run]:
            run += 1
        return run

    def _looked_up(self, *, longer_than: int) -> tuple[int, int] | None:
        """What followed the longest such run in prompt and correction, the latest of several."""
        end = self.tokens - 1
        places = np.flatnonzero(self._ids[:end] == self._ids[end])
        found, run = None, 1
        while len(places):
            if run > longer_than:
                found = int(places[-1]) + 1, run
            if run == min(LONGEST_RUN, end):
                break
            places = places[places >= run]
            places = places[self._ids[places - run] == self._ids[end - run]]
            run += 1
        return found
