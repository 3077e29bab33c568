"""Drafts for all the requests that an engine decodes, step by step.

The engine tells no names: each step is a table of token ids, a row per request, and rows move. A
request is known by what it has written: its ids begin with those that it had one step ago.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aligner.answer_marks import Marks
from aligner.copying import Follower, Guess
from aligner.draft_depth import Record, StepCost, Trust, depths

_NOTHING: Final = Guess([], "answer", 0)

_PATIENCE: Final = 5
"""Steps in vain, until a request among many is left alone for a while."""

_MANY: Final = 8

_SHORTEST_REST: Final = 8
_LONGEST_REST: Final = 128
"""Steps."""

_COPYING: Final = 4
"""Tokens in one step, which show that a text copies again."""


@dataclass(slots=True)
class _Request:
    """What is known of one request from step to step."""

    follower: Follower
    record: Record
    guess: Guess = _NOTHING
    drafted: int = 0
    """So many tokens of ``guess`` were handed to the engine."""
    in_vain: int = 0
    """Steps of late without a draft that came true, less twice those with one."""
    resting: int = 0
    """Steps for which it is left alone."""
    last_rest: int = 0
    """Steps of its last rest since it copied; 0 if there was none."""

    def came_to(self, came: int) -> None:
        """A step has written ``came`` tokens, all but one of them drafted."""
        self.in_vain = max(0, self.in_vain + (1 if came < 2 else -2))
        if came >= _COPYING:
            self.last_rest = 0

    def rest(self) -> None:
        """Leave it alone for a while, each time for longer."""
        self.last_rest = min(_LONGEST_REST, max(_SHORTEST_REST, 2 * self.last_rest))
        self.in_vain, self.resting = 0, self.last_rest

    def wrote(self, ids: NDArray[np.int32], new: int) -> bool:
        """Whether ``ids`` are its own, the last ``new`` of them yet unread."""
        return self.follower.tokens == len(ids) - new and self.follower.begins(ids)


class Drafter:
    """Drafts of one engine."""

    def __init__(
        self, marks: Sequence[Marks], *, depth: int, budget: int, context_tokens: int
    ) -> None:
        """``budget`` bounds the drafted tokens of all rows together, ``depth`` those of one."""
        self._marks = marks
        self._depth = depth
        self._budget = budget
        self._context_tokens = context_tokens
        self._trust = Trust()
        self._cost = StepCost()
        self._requests: list[_Request | None] = []

    def draft(
        self,
        came: Sequence[Sequence[int]],
        lengths_B: NDArray[np.int32],
        ids_BT: NDArray[np.int32],
        *,
        took_ms: float,
    ) -> list[list[int]]:
        """Drafts for the next step, by row; none for a row whose prompt is still being read.

        Args:
            came: The tokens that each row wrote in this step; none while its prompt is read.
            lengths_B: Tokens of each row, these among them.
            ids_BT: Their ids.
            took_ms: Since the last call's end.
        """
        before, rows = self._requests, [ids_BT[row, : lengths_B[row]] for row in range(len(came))]
        left = list(before)
        found = [
            self._taken(left, row, ids, len(new)) if new else None
            for row, (ids, new) in enumerate(zip(rows, came, strict=True))
        ]
        if all(found) and len(found) == sum(one is not None for one in before) == len(before):
            # Nothing came, went or was read besides.
            drafted = sum(one.drafted for one in found if one is not None)
            self._cost.learn(rows=len(found), drafted=drafted, took_ms=took_ms)
        self._requests = [
            self._gone_on(request, ids, new) if new else None
            for request, ids, new in zip(found, rows, came, strict=True)
        ]
        return self._drafts()

    def _taken(
        self, left: list[_Request | None], row: int, ids: NDArray[np.int32], new: int
    ) -> _Request | None:
        """The request of a row, taken out of those ``left``; most rows stay where they were."""
        places = [row] if row < len(left) else []
        for place in [*places, *range(len(left))]:
            request: _Request | None = left[place]
            if request is not None and request.wrote(ids, new):
                left[place] = None
                return request
        return None

    def _gone_on(
        self, request: _Request | None, ids: NDArray[np.int32], came: Sequence[int]
    ) -> _Request:
        if request is None:
            request = self._begun(ids, len(ids) - len(came))
        new = ids[request.follower.tokens :].tolist()
        if request.resting:
            request.resting -= 1
            request.follower.pass_over(new)
            return request
        request.came_to(len(came))
        request.record.learn(request.guess, came)
        request.follower.read(new)
        # One token more than a row has room for would be of no use.
        room = min(self._depth, self._context_tokens - 1 - len(ids))
        request.guess = request.follower.guess(room) if room > 0 else _NOTHING
        return request

    def _begun(self, ids: NDArray[np.int32], prompt_tokens: int) -> _Request:
        """A row that is seen for the first time; its prompt may hold a part of the correction."""
        for marks in self._marks:
            if (found := marks.find(ids[:prompt_tokens])) is not None:
                answer, begin = found
                follower = Follower(ids[:begin], answer, end_id=marks.end_id)
                return _Request(follower, Record(self._trust))
        follower = Follower(ids[:prompt_tokens], slice(0, 0), end_id=None)
        return _Request(follower, Record(self._trust))

    def _drafts(self) -> list[list[int]]:
        deciding = [one for one in self._requests if one is not None]
        chances = [one.record.chances(one.guess) for one in deciding]
        for one, depth in zip(
            deciding, depths(chances, self._cost, budget=self._budget), strict=True
        ):
            one.drafted = depth
            if one.in_vain >= _PATIENCE and len(deciding) >= _MANY:
                # With so many beside it to follow it costs more than it may bring.
                one.guess, one.drafted = _NOTHING, 0
                one.rest()
        return [[] if one is None else one.guess.ids[: one.drafted] for one in self._requests]
